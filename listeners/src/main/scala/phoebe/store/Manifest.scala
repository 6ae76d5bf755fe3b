package phoebe.store

import java.nio.charset.StandardCharsets.UTF_8

import com.fasterxml.jackson.databind.{DeserializationFeature, PropertyNamingStrategies}
import com.fasterxml.jackson.databind.annotation.JsonDeserialize
import com.fasterxml.jackson.databind.json.JsonMapper
import com.fasterxml.jackson.module.scala.DefaultScalaModule
import phoebe.files.DamagedFileException

/** A pack as the manifest names it, see [[Pack]]. (Jackson sees no `Long` in a Scala collection.) */
final case class ManifestPack(
    file: String,
    bytes: Long,
    footerOffset: Long,
    footerCrc: Int,
    chunkBytes: Int,
    @JsonDeserialize(contentAs = classOf[java.lang.Long]) mapIds: Seq[Long]
) {
  def pack: Pack = Pack(file, bytes, footerOffset, footerCrc, chunkBytes, mapIds.toArray)
}

object ManifestPack {
  def of(pack: Pack): ManifestPack =
    ManifestPack(
      pack.file,
      pack.bytes,
      pack.footerOffset,
      pack.footerCrc,
      pack.chunkBytes,
      pack.mapIds.toSeq
    )
}

/**
 * The contents of a committed checkpoint. It is written last, in one atomic step: without a manifest
 * there is no checkpoint.
 *
 * On disk it is one JSON object. Its first key is the CRC32C, in hex, of everything after it. Readers
 * and adaptive execution rely on its sizes and row counts, so a changed digit would silently lose
 * rows.
 *
 * @param owner
 *   the owner whose lease says whether the writing application may still use the files
 * @param inputs
 *   the identity of the input files, as they were right before the commit
 * @param workMs
 *   how long its query had run when the boundary was complete: the time that a restore saves
 * @param bytes
 *   bytes of the shuffle, as Spark counts them; the packs are a little larger
 * @param mapIds
 *   the winning map task attempts, by map index
 * @param statuses
 *   Spark's own map statuses, in base64 of gzip. Their sizes are as precise as those in the map
 *   output tracker, so adaptive execution sees the same as in the first run
 */
final case class Manifest(
    format: Int,
    fingerprint: String,
    appId: String,
    appAttempt: String,
    appName: String,
    user: String,
    executionId: Long,
    sparkVersion: String,
    pluginVersion: String,
    createdAtMs: Long,
    owner: String,
    inputs: String,
    workMs: Long,
    codec: String,
    numMaps: Int,
    numPartitions: Int,
    bytes: Long,
    rows: Long,
    dataSizeBytes: Long,
    packs: Seq[ManifestPack],
    @JsonDeserialize(contentAs = classOf[java.lang.Long]) mapIds: Seq[Long],
    statuses: String
)

object Manifest {
  val Format = 4
  private val HeadLength = 21

  /** Snake-case JSON for manifests. Unknown keys are ignored, so that later formats can add keys. */
  private val mapper = JsonMapper
    .builder()
    .addModule(DefaultScalaModule)
    .propertyNamingStrategy(PropertyNamingStrategies.SNAKE_CASE)
    .disable(DeserializationFeature.FAIL_ON_UNKNOWN_PROPERTIES)
    .enable(DeserializationFeature.FAIL_ON_NULL_FOR_PRIMITIVES)
    .enable(DeserializationFeature.FAIL_ON_MISSING_CREATOR_PROPERTIES)
    .build()

  def encode(manifest: Manifest): Array[Byte] = {
    val rest = mapper.writeValueAsString(manifest).drop(1).getBytes(UTF_8)
    head(rest) ++ rest
  }

  /** `{"crc32c":"...",`: the beginning of the object that `rest` continues. */
  private def head(rest: Array[Byte]): Array[Byte] =
    f"""{"crc32c":"${Pack.crcOf(rest)}%08x",""".getBytes(UTF_8)

  /** @throws DamagedFileException if it is not a complete and unchanged manifest of a known format */
  def decode(bytes: Array[Byte], what: => String): Manifest = {
    val rest = bytes.drop(HeadLength)
    if (!bytes.take(HeadLength).sameElements(head(rest))) {
      throw new DamagedFileException(s"$what: its checksum does not match")
    }
    val manifest =
      try {
        val format = mapper.readTree(bytes).path("format").asInt
        if (format != Format) {
          throw new DamagedFileException(s"$what: format $format, this version reads $Format")
        }
        mapper.readValue(bytes, classOf[Manifest])
      } catch {
        case e: com.fasterxml.jackson.core.JacksonException =>
          throw new DamagedFileException(s"$what: not a manifest (${e.getOriginalMessage})")
      }
    val held = manifest.packs.iterator.flatMap(_.mapIds).toSet
    if (manifest.mapIds.size != manifest.numMaps || !manifest.mapIds.forall(held)) {
      throw new DamagedFileException(s"$what: its map outputs do not add up")
    }
    manifest
  }
}
