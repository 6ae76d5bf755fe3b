// In Spark's package for IndexShuffleBlockResolver, CryptoStreamUtils (private[spark]).
package org.apache.spark.sql.execution.phoebe.executor

import java.io.{BufferedInputStream, DataInputStream, File, FileInputStream, InputStream}
import java.nio.file.{Files, FileSystemException, NoSuchFileException}

import scala.collection.mutable

import org.apache.spark.SparkEnv
import org.apache.spark.internal.config.{
  SHUFFLE_CHECKSUM_ALGORITHM,
  SHUFFLE_CHECKSUM_ENABLED,
  SHUFFLE_COMPRESS,
  SHUFFLE_UNSAFE_FAST_MERGE_ENABLE
}
import org.apache.spark.io.CompressionCodec
import org.apache.spark.network.util.LimitedInputStream
import org.apache.spark.security.CryptoStreamUtils
import org.apache.spark.shuffle.IndexShuffleBlockResolver
import org.apache.spark.sql.execution.phoebe.rpc.CheckpointMessages.MapOutput
import phoebe.FailSafe
import phoebe.store.{PackSource, SegmentChecksums}

/**
 * A map output with hard links to its files, so that the upload does not depend on how long Spark keeps
 * them: Spark's clean-up removes its own names, and the links keep the bytes. They are removed when the
 * upload is done or given up. On a file system without links these are Spark's own files.
 *
 * @param data None if the output is empty: Spark writes no data file then
 * @param checksums Spark's checksum of each segment; None if it has none for these bytes
 * @param links the links to remove at the end
 */
final case class LinkedOutput(
    output: MapOutput,
    data: Option[File],
    index: File,
    checksums: Option[File],
    links: Seq[File]
) {

  /** The bytes for a pack: Spark's, decrypted if the application encrypts its files. */
  def source(env: SparkEnv): PackSource = {
    val onDisk = lengths()
    def open() = new FileInputStream(data.get)
    env.securityManager.getIOEncryptionKey() match {
      case None => PackSource(output.mapId, onDisk, () => open(), noted(env))
      case Some(key) =>
        val plain = onDisk.map(n => math.max(0L, n - CryptoStreamUtils.IV_LENGTH_IN_BYTES))
        PackSource(
          output.mapId,
          plain,
          () =>
            new DecryptedSegments(
              open(),
              onDisk,
              CryptoStreamUtils.createCryptoInputStream(_, env.conf, key)
            )
        )
    }
  }

  private def noted(env: SparkEnv): Option[SegmentChecksums] = checksums.map { file =>
    SegmentChecksums(env.conf.get(SHUFFLE_CHECKSUM_ALGORITHM), longs(file, output.numPartitions))
  }

  /** Segment lengths from Spark's index file: numPartitions + 1 offsets. */
  private def lengths(): Array[Long] =
    longs(index, output.numPartitions + 1).sliding(2).map(pair => pair(1) - pair(0)).toArray

  private def longs(file: File, count: Int): Array[Long] = {
    val in = new DataInputStream(new BufferedInputStream(new FileInputStream(file)))
    try Array.fill(count)(in.readLong())
    finally in.close()
  }

  /** Removes the links. A failure is logged and ignored. */
  def release(): Unit = links.foreach { link =>
    FailSafe.run("remove a name of a map output")(Files.deleteIfExists(link.toPath): Unit)
  }
}

/**
 * Decrypts a shuffle file, in which each partition's segment begins with its own initialisation vector.
 * Returns the plain segments, one after the other.
 */
private[phoebe] final class DecryptedSegments(
    file: InputStream,
    lengths: Array[Long],
    decrypted: InputStream => InputStream
) extends InputStream {
  private val segments = lengths.iterator.filter(_ > 0).map { length =>
    decrypted(new LimitedInputStream(file, length, false))
  }
  private var current: InputStream = InputStream.nullInputStream()

  override def read(target: Array[Byte], offset: Int, length: Int): Int =
    if (length == 0) 0
    else {
      var count = current.read(target, offset, length)
      while (count < 0 && segments.hasNext) {
        current.close()
        current = segments.next()
        count = current.read(target, offset, length)
      }
      count
    }

  override def read(): Int = {
    val one = new Array[Byte](1)
    if (read(one, 0, 1) < 0) -1 else one(0) & 0xff
  }

  override def close(): Unit =
    try current.close()
    finally file.close()
}

object LinkedOutput {

  def of(env: SparkEnv, shuffleId: Int, output: MapOutput): LinkedOutput = {
    val index = resolver(env).getIndexFile(shuffleId, output.mapId)
    val data =
      Some(resolver(env).getDataFile(shuffleId, output.mapId)).filter(_ => output.bytes > 0)
    val checksums = data.flatMap(_ => checksumFile(env, shuffleId, output))
    val links = mutable.Map.empty[File, File]
    try (data.toSeq ++ checksums :+ index).foreach(file => link(file).foreach(links(file) = _))
    catch {
      case e: NoSuchFileException =>
        links.values.foreach(made => Files.deleteIfExists(made.toPath))
        throw e
    }
    def linked(file: File) = links.getOrElse(file, file)
    LinkedOutput(
      output,
      data.map(linked),
      linked(index),
      checksums.map(linked),
      links.values.toSeq
    )
  }

  def resolver(env: SparkEnv): IndexShuffleBlockResolver =
    env.shuffleManager.shuffleBlockResolver.asInstanceOf[IndexShuffleBlockResolver]

  private def checksumFile(env: SparkEnv, shuffleId: Int, output: MapOutput): Option[File] =
    if (env.conf.get(SHUFFLE_CHECKSUM_ENABLED) && checksumsAreOfFiles(env)) {
      val algorithm = env.conf.get(SHUFFLE_CHECKSUM_ALGORITHM)
      Some(resolver(env).getChecksumFile(shuffleId, output.mapId, algorithm))
        .filter(_.length == 8L * output.numPartitions) // Spark may not have written it
    } else None

  /**
   * Whether Spark's checksums are those of the stored bytes. Where Spark merges spills by compressing
   * them again, they are those of the spills. And encrypted files are stored decrypted.
   */
  private def checksumsAreOfFiles(env: SparkEnv): Boolean =
    env.securityManager.getIOEncryptionKey().isEmpty &&
      env.conf.get(SHUFFLE_UNSAFE_FAST_MERGE_ENABLE) &&
      (!env.conf.get(SHUFFLE_COMPRESS) ||
        CompressionCodec.supportsConcatenationOfSerializedStreams(
          CompressionCodec.createCodec(env.conf)
        ))

  /** Links in the same directory, with a name that Spark does not take for a block. */
  private def link(file: File): Option[File] = {
    val link = new File(file.getParentFile, s"phoebe-upload-${file.getName}")
    try {
      Files.createLink(link.toPath, file.toPath)
      Some(link)
    } catch {
      case e: NoSuchFileException => throw e
      case _: UnsupportedOperationException | _: FileSystemException => None
    }
  }
}
