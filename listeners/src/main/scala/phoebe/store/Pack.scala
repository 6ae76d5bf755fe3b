package phoebe.store

import java.io.{ByteArrayOutputStream, DataInputStream, DataOutputStream, InputStream, OutputStream}
import java.nio.ByteBuffer
import java.util.zip.CRC32C

import org.apache.spark.network.shuffle.checksum.ShuffleChecksumHelper
import phoebe.files.DamagedFileException

/**
 * One file of a checkpoint: the outputs of one or more map tasks, ordered by reduce partition.
 *
 * {{{
 * run of reduce partition 0, 1, ...   one run for each partition that is not empty
 *   header    varint partition, varint bytes of each map task's segment, CRC32C of these
 *   chunks    of each segment in turn, at most `chunkBytes` long, each followed by its CRC32C
 * footer      magic, version, chunk size, map tasks, partitions, offset of each run and of the
 *             footer (longs), CRC32C of these
 * }}}
 *
 * A segment has the bytes of Spark's own shuffle file for one map task and reduce partition. The order
 * makes reading cheap on a remote store: a reducer reads one range of each pack, however many map tasks
 * are in it.
 *
 * @param mapIds
 *   task attempt ids of the map tasks, in the order of their segments
 * @param footerCrc
 *   the CRC32C at the end of the file; the manifest has it too, so a replaced file is noticed
 */
final case class Pack(
    file: String,
    bytes: Long,
    footerOffset: Long,
    footerCrc: Int,
    chunkBytes: Int,
    mapIds: Array[Long]
) {

  /** The position in the file of the offset of run `partition`. */
  def offsetAt(partition: Int): Long = footerOffset + Pack.FooterHead + 8L * partition
}

object Pack {
  val Magic = 0x50485042 // "PHPB"
  val Version = 1
  val FooterHead = 20

  /** Small enough to hold a few per task, large enough that the checksums cost almost nothing. */
  val DefaultChunkBytes: Int = 1 << 20

  def crcOf(bytes: Array[Byte], offset: Int, length: Int): Int = {
    val crc = new CRC32C
    crc.update(bytes, offset, length)
    crc.getValue.toInt
  }

  def crcOf(bytes: Array[Byte]): Int = crcOf(bytes, 0, bytes.length)

  /** An upper bound for a run header's bytes. */
  def headerBound(maps: Int): Int = 5 + 10 * maps + 4

  def writeVarint(value: Long, out: OutputStream): Unit = {
    var left = value
    while ((left & ~0x7fL) != 0) {
      out.write(((left & 0x7f) | 0x80).toInt)
      left >>>= 7
    }
    out.write(left.toInt)
  }

  /** The offsets of all runs (partitions + 1 of them), from a footer's bytes. */
  def decodeFooter(bytes: Array[Byte], pack: Pack, what: => String): Array[Long] = {
    def damaged(why: String): Nothing = throw new DamagedFileException(s"$what: $why")
    if (bytes.length < FooterHead + 4) damaged(s"its footer is only ${bytes.length} bytes long")
    val in = ByteBuffer.wrap(bytes)
    val stored = in.getInt(bytes.length - 4)
    if (stored != pack.footerCrc) damaged("not the file that was committed")
    if (crcOf(bytes, 0, bytes.length - 4) != stored) damaged("its footer's checksum does not match")
    if (in.getInt() != Magic) damaged("not a pack")
    val version = in.getInt()
    if (version != Version) damaged(s"unknown version $version")
    if (in.getInt() != pack.chunkBytes) damaged("has chunks of another size")
    if (in.getInt() != pack.mapIds.length) damaged("holds other map outputs")
    val partitions = in.getInt()
    Array.fill(partitions + 1)(in.getLong())
  }
}

/**
 * Spark's checksum of each segment's bytes, made when it wrote them.
 *
 * @param algorithm
 *   as `spark.shuffle.checksum.algorithm` names it
 */
final case class SegmentChecksums(algorithm: String, values: Array[Long])

/**
 * One map task's output on its way into a pack.
 *
 * @param lengths
 *   bytes of each reduce partition's segment, as Spark's own index file has them
 * @param open
 *   opens Spark's data file at its beginning; called at most once, and only if the output has bytes
 * @param checksums
 *   the expected checksums of the segments; None where they are not known
 */
final case class PackSource(
    mapId: Long,
    lengths: Array[Long],
    open: () => InputStream,
    checksums: Option[SegmentChecksums] = None
)

object PackWriter {
  private val BufferBytes = 16 << 20
  private val SmallestBuffer = 16 << 10
  private val LargestBuffer = 256 << 10

  /**
   * Merges map outputs into a pack, each of them read once from its beginning to its end.
   *
   * @throws java.io.EOFException
   *   if a source is shorter than its lengths say
   * @throws DamagedFileException
   *   if a segment does not match its checksum
   * @return
   *   the pack, as written to `target` under the name `file`
   */
  def write(
      file: String,
      sources: IndexedSeq[PackSource],
      target: OutputStream,
      chunkBytes: Int = Pack.DefaultChunkBytes,
      beforeChunk: () => Unit = () => ()
  ): Pack = {
    val partitions = sources.head.lengths.length
    val buffered =
      math.min(LargestBuffer, math.max(SmallestBuffer, BufferBytes / sources.length))
    val inputs = new Array[DataInputStream](sources.length)
    def input(i: Int): DataInputStream = {
      if (inputs(i) == null) {
        inputs(i) =
          new DataInputStream(new java.io.BufferedInputStream(sources(i).open(), buffered))
      }
      inputs(i)
    }
    val sums = sources.map(_.checksums.map { noted =>
      ShuffleChecksumHelper.getChecksumByAlgorithm(noted.algorithm)
    })
    val out = new DataOutputStream(target)
    var position = 0L
    val offsets = new Array[Long](partitions + 1)
    val longest = sources.iterator.flatMap(_.lengths.iterator).maxOption.getOrElse(0L)
    // A chunk and its checksum are one write: a store's stream may take a lock for each.
    val chunk = new Array[Byte](math.min(chunkBytes.toLong, longest).toInt + 4)
    val ends = ByteBuffer.wrap(chunk)
    val header = new ByteArrayOutputStream
    try {
      var partition = 0
      while (partition < partitions) {
        offsets(partition) = position
        if (sources.exists(_.lengths(partition) > 0)) {
          header.reset()
          Pack.writeVarint(partition, header)
          sources.foreach(s => Pack.writeVarint(s.lengths(partition), header))
          val head = header.toByteArray
          out.write(head)
          out.writeInt(Pack.crcOf(head))
          position += head.length + 4
          sources.indices.foreach { i =>
            var left = sources(i).lengths(partition)
            sums(i).foreach(_.reset())
            while (left > 0) {
              beforeChunk()
              val size = math.min(left, chunkBytes.toLong).toInt
              input(i).readFully(chunk, 0, size)
              sums(i).foreach(_.update(chunk, 0, size))
              ends.putInt(size, Pack.crcOf(chunk, 0, size))
              out.write(chunk, 0, size + 4)
              position += size + 4
              left -= size
            }
            if (sources(i).lengths(partition) > 0) {
              sums(i).zip(sources(i).checksums).foreach { case (sum, noted) =>
                if (sum.getValue != noted.values(partition)) {
                  throw new DamagedFileException(
                    s"the local shuffle file of map task ${sources(i).mapId} is not what it was, " +
                      s"in partition $partition: its ${noted.algorithm} checksum does not match"
                  )
                }
              }
            }
          }
        }
        partition += 1
      }
      offsets(partitions) = position
      val footer = encodeFooter(chunkBytes, sources.length, offsets)
      out.write(footer)
      out.flush()
      Pack(
        file,
        position + footer.length,
        position,
        ByteBuffer.wrap(footer).getInt(footer.length - 4),
        chunkBytes,
        sources.map(_.mapId).toArray
      )
    } finally inputs.foreach(in => if (in != null) in.close())
  }

  def encodeFooter(chunkBytes: Int, maps: Int, offsets: Array[Long]): Array[Byte] = {
    val bytes = ByteBuffer.allocate(Pack.FooterHead + 8 * offsets.length + 4)
    bytes.putInt(Pack.Magic).putInt(Pack.Version).putInt(chunkBytes).putInt(maps)
    bytes.putInt(offsets.length - 1)
    offsets.foreach(bytes.putLong)
    bytes.putInt(Pack.crcOf(bytes.array, 0, bytes.position()))
    bytes.array
  }
}
