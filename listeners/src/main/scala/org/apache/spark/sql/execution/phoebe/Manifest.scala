package org.apache.spark.sql.execution.phoebe

import java.nio.charset.StandardCharsets.UTF_8
import java.util.Base64

import com.fasterxml.jackson.databind.{DeserializationFeature, PropertyNamingStrategies}
import com.fasterxml.jackson.databind.json.JsonMapper
import com.fasterxml.jackson.module.scala.DefaultScalaModule

import org.apache.spark.scheduler.MapStatus

/**
 * One map task's part of a committed checkpoint.
 *
 * @param mapId task attempt id of the winning attempt, which its file names carry
 * @param indexCrc the CRC32C that the index file ends with: ties the index to this manifest
 * @param sizes base64 of one byte per reduce partition, Spark's own compressed block sizes
 *              (`MapStatus.compressSize`), so that adaptive execution sees what it saw in the first run
 */
private[phoebe] final case class ManifestMap(
    mapIndex: Int,
    mapId: Long,
    file: String,
    dataBytes: Long,
    indexCrc: Int,
    rows: Long,
    sizes: String
) {

  def blockSizes: Array[Long] =
    Base64.getDecoder.decode(sizes).map(MapStatus.decompressSize)
}

/**
 * What a committed checkpoint holds; written last, by one atomic step: no manifest, no checkpoint.
 *
 * On disk it is one JSON object whose first key holds the CRC32C, in hex, of all that follows it:
 * sizes and row counts steer readers and adaptive execution, so a changed digit would lose rows
 * without a word.
 *
 * @param host
 *   where the writing driver ran, with its `pid`: who may still be using the files
 */
private[phoebe] final case class Manifest(
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
    host: String,
    pid: Long,
    codec: String,
    numMaps: Int,
    numPartitions: Int,
    bytes: Long,
    rows: Long,
    dataSizeBytes: Long,
    maps: Seq[ManifestMap]
)

private[phoebe] object Manifest {
  val Format = 1
  private val HeadLength = 21

  /** Snake-case JSON for manifests; unknown keys are let pass so that later formats can add some. */
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

  /** `{"crc32c":"...",`: opens the object that `rest` goes on with. */
  private def head(rest: Array[Byte]): Array[Byte] =
    f"""{"crc32c":"${MapFileIndex.crcOf(rest, rest.length)}%08x",""".getBytes(UTF_8)

  /** @throws DamagedFileException if it is not, byte for byte, a whole manifest of a known format */
  def decode(bytes: Array[Byte], what: => String): Manifest = {
    val rest = bytes.drop(HeadLength)
    if (!bytes.take(HeadLength).sameElements(head(rest))) {
      throw new DamagedFileException(s"$what: its checksum does not match")
    }
    val manifest =
      try mapper.readValue(bytes, classOf[Manifest])
      catch {
        case e: com.fasterxml.jackson.core.JacksonException =>
          throw new DamagedFileException(s"$what: not a manifest (${e.getOriginalMessage})")
      }
    if (manifest.format != Format) {
      throw new DamagedFileException(
        s"$what: format ${manifest.format}, this version reads $Format"
      )
    }
    val whole = manifest.maps.size == manifest.numMaps &&
      manifest.maps.zipWithIndex.forall { case (map, i) => map.mapIndex == i } &&
      manifest.maps.map(_.dataBytes).sum == manifest.bytes
    if (!whole) throw new DamagedFileException(s"$what: its map outputs do not add up")
    manifest
  }

  def encodeSizes(lengths: Array[Long]): String =
    Base64.getEncoder.encodeToString(lengths.map(MapStatus.compressSize))
}
