package org.apache.spark.sql.execution.phoebe

import java.io.{
  ByteArrayInputStream,
  ByteArrayOutputStream,
  DataInputStream,
  DataOutputStream,
  IOException,
  InputStream
}
import java.util.zip.CRC32C

import scala.collection.mutable

/** A checkpoint's bytes are not those that were written: wrong length, checksum or header. */
class DamagedFileException(message: String) extends IOException(message)

/**
 * The index beside each map task's copied shuffle file.
 *
 * The data file is Spark's own shuffle file, byte for byte: the segments of reduce partitions 0, 1,
 * 2, ... one after the other. The index says how long each segment is, and holds a CRC32C for every
 * chunk of at most `chunkBytes` of a segment (a chunk never crosses segments), so that a reader
 * verifies what it hands to a decoder while it holds one chunk in memory, whatever the segment's size.
 *
 * @param lengths bytes of each reduce partition's segment
 * @param crcs CRC32C of the chunks, in file order
 */
private[phoebe] final class MapFileIndex(
    val chunkBytes: Int,
    val lengths: Array[Long],
    val crcs: Array[Int]
) {

  /** Where each segment starts; one more entry than partitions, the last is the file's length. */
  val offsets: Array[Long] = lengths.scanLeft(0L)(_ + _)

  /** Rank of each segment's first chunk. */
  val firstChunks: Array[Int] =
    lengths.scanLeft(0)((n, bytes) => n + MapFileIndex.chunks(bytes, chunkBytes))

  def dataBytes: Long = offsets.last

  /** Bytes of this object in a cache, roughly. */
  def weight: Int = 64 + lengths.length * 20 + crcs.length * 4
}

private[phoebe] object MapFileIndex {
  private val Magic = 0x50484258 // "PHBX"
  private val Version = 1
  val DefaultChunkBytes: Int = 1 << 20

  def chunks(segmentBytes: Long, chunkBytes: Int): Int =
    ((segmentBytes + chunkBytes - 1) / chunkBytes).toInt

  def crcOf(bytes: Array[Byte], length: Int): Int = {
    val crc = new CRC32C
    crc.update(bytes, 0, length)
    crc.getValue.toInt
  }

  /** The index file's bytes; the last four are the CRC32C of all before. */
  def encode(index: MapFileIndex): Array[Byte] = {
    val bytes = new ByteArrayOutputStream(32 + index.weight)
    val out = new DataOutputStream(bytes)
    out.writeInt(Magic)
    out.writeInt(Version)
    out.writeInt(index.chunkBytes)
    out.writeInt(index.lengths.length)
    index.lengths.foreach(out.writeLong)
    out.writeInt(index.crcs.length)
    index.crcs.foreach(out.writeInt)
    out.writeInt(crcOf(bytes.toByteArray, bytes.size))
    bytes.toByteArray
  }

  def crcOfEncoded(encoded: Array[Byte]): Int =
    new DataInputStream(new ByteArrayInputStream(encoded, encoded.length - 4, 4)).readInt()

  /** @throws DamagedFileException if any byte differs from what was encoded */
  def decode(encoded: Array[Byte], what: => String): MapFileIndex = {
    def damaged(why: String): Nothing = throw new DamagedFileException(s"$what: $why")
    if (encoded.length < 24) damaged(s"only ${encoded.length} bytes long")
    if (crcOf(encoded, encoded.length - 4) != crcOfEncoded(encoded))
      damaged("its checksum does not match")
    val in = new DataInputStream(new ByteArrayInputStream(encoded))
    if (in.readInt() != Magic) damaged("not an index file")
    val version = in.readInt()
    if (version != Version) damaged(s"unknown version $version")
    val chunkBytes = in.readInt()
    val lengths = Array.fill(in.readInt())(in.readLong())
    val crcs = Array.fill(in.readInt())(in.readInt())
    new MapFileIndex(chunkBytes, lengths, crcs)
  }

  /**
   * Copies a map task's shuffle file to `out` and returns its index, in one sequential pass.
   *
   * @param lengths segment lengths as Spark's own index file has them
   * @throws java.io.EOFException if the source is shorter than the lengths say
   */
  def copy(
      in: InputStream,
      lengths: Array[Long],
      out: java.io.OutputStream,
      chunkBytes: Int = DefaultChunkBytes,
      beforeChunk: () => Unit = () => ()
  ): MapFileIndex = {
    val data = new DataInputStream(in)
    val buffer = new Array[Byte](math.min(
      chunkBytes.toLong,
      math.max(1L, lengths.maxOption.getOrElse(1L))
    ).toInt)
    val crcs = mutable.ArrayBuilder.make[Int]
    lengths.foreach { segment =>
      var left = segment
      while (left > 0) {
        beforeChunk()
        val size = math.min(left, buffer.length.toLong).toInt
        data.readFully(buffer, 0, size)
        crcs += crcOf(buffer, size)
        out.write(buffer, 0, size)
        left -= size
      }
    }
    new MapFileIndex(chunkBytes, lengths, crcs.result())
  }
}
