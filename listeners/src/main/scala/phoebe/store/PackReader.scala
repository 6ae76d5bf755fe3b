package phoebe.store

import java.io.{Closeable, InputStream}
import java.nio.ByteBuffer

import scala.collection.mutable

import com.google.common.cache.{Cache, CacheBuilder, Weigher}
import org.apache.hadoop.conf.Configuration
import org.apache.hadoop.fs.Path
import phoebe.files.{DamagedFileException, HadoopFiles}

/**
 * A request for some map outputs of one pack, for reduce partitions `from` until `until`.
 *
 * @param blocks
 *   the number of non-empty blocks by the map output tracker: fewer of them is damage
 * @param sequential
 *   whether nearly everything in these partitions is requested, so that it is read in one go
 */
final case class PackReadRequest(
    pack: Pack,
    mapIds: Set[Long],
    from: Int,
    until: Int,
    blocks: Int,
    sequential: Boolean
)

/** One map task's bytes for one reduce partition; read it before you request the next segment. */
final case class Segment(
    mapId: Long,
    partition: Int,
    bytes: Long,
    stream: InputStream
)

/**
 * Reads segments from the packs of one checkpoint. Each chunk is verified before any of its bytes is
 * returned. Memory is bounded for segments of any size: the requests under way and one chunk.
 *
 * Not thread safe.
 *
 * @param held
 *   packs whose bytes are in memory already, by file name
 * @param timeoutMs
 *   the time-out for an answer of the store
 * @throws DamagedFileException
 *   (from the iterator and its streams) if the bytes are not those that were written
 */
final class PackReader(
    directory: Path,
    conf: Configuration,
    held: PackReader.PackBytes = Map.empty,
    timeoutMs: Long = RangeFetcher.DefaultTimeoutMs
) extends Closeable {
  private lazy val fs = HadoopFiles.fileSystem(directory, conf)
  private val fetcher = new RangeFetcher(fs, timeoutMs, held)
  private var chunk = Array.emptyByteArray

  /** The requested segments: pack by pack, each by partition and then by map task. */
  def read(requests: Seq[PackReadRequest]): Iterator[Segment] =
    if (fetcher.isLocal) {
      requests.iterator.flatMap { request =>
        val bounds = boundsOf(request)
        if (request.sequential) readPlanned(Seq(request -> bounds))
        else segments(request, bounds, new SeekingInput(request.pack))
      }
    } else {
      val (whole, parts) = requests.partition(_.sequential)
      readPlanned(whole.map(request => request -> boundsOf(request))) ++
        parts.iterator.flatMap(request =>
          segments(request, boundsOf(request), new SeekingInput(request.pack))
        )
    }

  private def readPlanned(requests: Seq[(PackReadRequest, Array[Long])]): Iterator[Segment] = {
    fetcher.plan(requests.iterator.flatMap { case (request, bounds) =>
      rangeOf(request.pack, bounds.head, bounds.last).split(fetcher.requestBytes)
    })
    val input = new PlannedInput
    requests.iterator.flatMap { case (request, bounds) => segments(request, bounds, input) }
  }

  /**
   * Checks that a pack has the length and the footer that were committed. That takes one request, for a
   * pack of any size. The bytes before the footer are verified when they are read.
   */
  def checkFooter(pack: Pack): Unit = {
    checkLength(pack)
    footerOf(pack): Unit
  }

  private def checkLength(pack: Pack): Unit = if (fetcher.isLocal) {
    val length = fs.getFileStatus(pathOf(pack)).getLen
    if (length != pack.bytes) {
      throw new DamagedFileException(
        s"${pathOf(pack)}: $length bytes, ${pack.bytes} were committed"
      )
    }
  }

  /** Reads and verifies a whole pack with its footer. */
  def verify(pack: Pack): Unit = {
    checkLength(pack)
    // The footer comes first: its offsets are needed to read the first run.
    fetcher.plan(
      Iterator(rangeOf(pack, pack.footerOffset, pack.bytes)) ++
        rangeOf(pack, 0, pack.footerOffset).split(fetcher.requestBytes)
    )
    val (footer, bytes) = fetcher.next()
    val offsets = decodeFooter(pack, footer, bytes)
    val request =
      PackReadRequest(pack, pack.mapIds.toSet, 0, offsets.length - 1, 0, sequential = true)
    val input = new PlannedInput
    segments(request, offsets, input, promised = None).foreach { segment =>
      while (segment.stream.skip(Long.MaxValue) > 0) {}
    }
  }

  override def close(): Unit = fetcher.close()

  /** Parsing a path costs more than reading a small segment: once for each pack. */
  private val paths = mutable.HashMap.empty[String, Path]
  private def pathOf(pack: Pack): Path =
    paths.getOrElseUpdate(pack.file, new Path(directory, pack.file))

  private def rangeOf(pack: Pack, start: Long, end: Long) =
    FileRange(pathOf(pack), pack.bytes, start, end)

  /**
   * The offsets of the requested runs, and the end of the last one. Wrong offsets are noticed when a
   * run's header is read, or by blocks that are missing at the end.
   */
  private def boundsOf(request: PackReadRequest): Array[Long] = {
    val pack = request.pack
    val bounds =
      if (fetcher.isLocal) {
        val range =
          rangeOf(pack, pack.offsetAt(request.from), pack.offsetAt(request.until) + 8)
        val in = ByteBuffer.wrap(fetcher.fetch(range), 0, range.size)
        Array.fill(request.until - request.from + 1)(in.getLong())
      } else {
        PackReader.footers
          .get(pathOf(pack).toString, () => footerOf(pack))
          .slice(request.from, request.until + 1)
      }
    if (
      bounds.head < 0 || bounds.last > pack.footerOffset || bounds.zip(bounds.tail).exists {
        case (a, b) => a > b
      }
    ) {
      throw new DamagedFileException(s"${pathOf(pack)}: its offsets are out of order")
    }
    bounds
  }

  private def footerOf(pack: Pack): Array[Long] = {
    val range = rangeOf(pack, pack.footerOffset, pack.bytes)
    decodeFooter(pack, range, fetcher.fetch(range))
  }

  /** The fetched bytes may be at the beginning of a larger buffer. */
  private def decodeFooter(pack: Pack, range: FileRange, fetched: Array[Byte]): Array[Long] =
    Pack.decodeFooter(java.util.Arrays.copyOf(fetched, range.size), pack, range.path.toString)

  private def segments(
      request: PackReadRequest,
      bounds: Array[Long],
      input: StoreInput
  ): Iterator[Segment] =
    segments(request, bounds, input, Some(request.blocks))

  private def segments(
      request: PackReadRequest,
      bounds: Array[Long],
      input: StoreInput,
      promised: Option[Int]
  ): Iterator[Segment] = {
    val pack = request.pack
    val wanted = pack.mapIds.map(request.mapIds)
    var found = 0
    val runs = (request.from until request.until).iterator.filter { partition =>
      bounds(partition - request.from + 1) > bounds(partition - request.from)
    }
    val all = runs.flatMap { partition =>
      val start = bounds(partition - request.from)
      val end = bounds(partition - request.from + 1)
      val lengths = header(pack, partition, start, end, input)
      // The start of each segment, and the end of the last one.
      val starts =
        lengths.map(storedBytes(_, pack.chunkBytes)).scanLeft(input.position)(_ + _)
      if (starts.last != end) {
        throw new DamagedFileException(
          s"${pathOf(pack)}: partition $partition ends at ${starts.last}, not at $end"
        )
      }
      // For each segment, how far to read until the next one that is not requested.
      val stretches = new Array[Long](lengths.length)
      lengths.indices.reverse.foreach { i =>
        val goesOn = i + 1 < lengths.length && (wanted(i + 1) || lengths(i + 1) == 0)
        stretches(i) = if (goesOn) stretches(i + 1) else starts(i + 1)
      }
      lengths.indices.iterator.filter(i => wanted(i) && lengths(i) > 0).map { i =>
        found += 1
        input.seek(pack, starts(i), stretches(i))
        Segment(
          pack.mapIds(i),
          partition,
          lengths(i),
          new SegmentStream(pack, lengths(i), input)
        )
      }
    }
    all ++ Iterator.continually(()).take(1).flatMap { _ =>
      promised.filter(_ != found).foreach { blocks =>
        throw new DamagedFileException(
          s"${pathOf(pack)}: holds $found blocks of partitions ${request.from} to ${request.until}, " +
            s"not $blocks"
        )
      }
      None
    }
  }

  private def storedBytes(length: Long, chunkBytes: Int): Long =
    length + 4 * ((length + chunkBytes - 1) / chunkBytes)

  /** The lengths of a run's segments. */
  private def header(
      pack: Pack,
      partition: Int,
      start: Long,
      end: Long,
      input: StoreInput
  ): Array[Long] = {
    def damaged(): Nothing =
      throw new DamagedFileException(
        s"${pathOf(pack)}: the header of partition $partition is damaged"
      )
    input.seek(pack, start, math.min(end, start + Pack.headerBound(pack.mapIds.length)))
    val bytes = new java.io.ByteArrayOutputStream(16)
    def varint(): Long = {
      var value = 0L
      var shift = 0
      var more = true
      while (more) {
        if (shift > 63 || input.position >= end) damaged()
        val byte = input.read()
        bytes.write(byte)
        value |= (byte & 0x7fL) << shift
        shift += 7
        more = (byte & 0x80) != 0
      }
      value
    }
    val named = varint()
    val lengths = Array.fill(pack.mapIds.length)(varint())
    if (input.position + 4 > end) damaged()
    val crc = input.readInt()
    if (named != partition || lengths.exists(_ < 0) || crc != Pack.crcOf(bytes.toByteArray)) {
      damaged()
    }
    lengths
  }

  /** Reads bytes of the store in ascending order, and skips segments that are not requested. */
  private abstract class StoreInput {
    protected var bytes: Array[Byte] = Array.emptyByteArray
    protected var start = 0L // of `bytes` in the file
    protected var limit = 0 // of what is valid in `bytes`
    protected var at = 0

    def position: Long = start + at

    /** Goes to position `to` of a pack; from there it will be read up to `until`. */
    def seek(pack: Pack, to: Long, until: Long): Unit

    /** Makes at least one byte available. */
    protected def refill(): Unit

    def read(): Int = {
      if (at == limit) refill()
      at += 1
      bytes(at - 1) & 0xff
    }

    def readInt(): Int = (read() << 24) | (read() << 16) | (read() << 8) | read()

    def readFully(target: Array[Byte], size: Int): Unit = {
      var done = 0
      while (done < size) {
        if (at == limit) refill()
        val step = math.min(limit - at, size - done)
        System.arraycopy(bytes, at, target, done, step)
        at += step
        done += step
      }
    }
  }

  /** Over the planned ranges, which follow each other in the order of reading. */
  private final class PlannedInput extends StoreInput {
    private var file: Path = _

    override def seek(pack: Pack, to: Long, until: Long): Unit = {
      // Skips what a decoder has not read, also of an earlier pack.
      val path = pathOf(pack)
      while (file != path || to < start || to > start + limit) refill()
      at = (to - start).toInt
    }

    override protected def refill(): Unit = {
      if (!fetcher.hasNext) throw new DamagedFileException(s"$file: ends early")
      val (range, fetched) = fetcher.next()
      file = range.path
      bytes = fetched
      start = range.start
      limit = range.size
      at = 0
    }
  }

  /** Over a pack of which only some map outputs are requested: the others are not fetched. */
  private final class SeekingInput(pack: Pack) extends StoreInput {
    private var end = 0L // of what is to be read without another seek

    override def seek(pack: Pack, to: Long, until: Long): Unit = {
      end = until
      if (to >= start && to <= start + limit) at = (to - start).toInt
      else {
        start = to
        limit = 0
        at = 0
      }
    }

    override protected def refill(): Unit = {
      val from = position
      if (from >= end) throw new DamagedFileException(s"${pathOf(pack)}: a run is too short")
      val range = rangeOf(pack, from, math.min(end, from + fetcher.requestBytes))
      bytes = fetcher.fetch(range)
      start = from
      limit = range.size
      at = 0
    }
  }

  /** One segment's bytes as Spark wrote them. */
  private final class SegmentStream(pack: Pack, length: Long, input: StoreInput)
      extends InputStream {
    private var left = length
    private var position = 0
    private var limit = 0

    private def fill(): Boolean = {
      if (position == limit && left > 0) {
        val size = math.min(left, pack.chunkBytes.toLong).toInt
        if (chunk.length < size) chunk = new Array[Byte](size)
        val where = input.position
        input.readFully(chunk, size)
        if (input.readInt() != Pack.crcOf(chunk, 0, size)) {
          throw new DamagedFileException(
            s"${pathOf(pack)}: checksum mismatch in bytes $where to ${where + size}"
          )
        }
        left -= size
        position = 0
        limit = size
      }
      position < limit
    }

    override def read(): Int =
      if (!fill()) -1
      else {
        position += 1
        chunk(position - 1) & 0xff
      }

    override def read(target: Array[Byte], offset: Int, length: Int): Int =
      if (length == 0) 0
      else if (!fill()) -1
      else {
        val size = math.min(length, limit - position)
        System.arraycopy(chunk, position, target, offset, size)
        position += size
        size
      }

    /** Verifies what it skips. */
    override def skip(n: Long): Long =
      if (n <= 0 || !fill()) 0
      else {
        val size = math.min(n, (limit - position).toLong)
        position += size.toInt
        size
      }

    override def available(): Int = limit - position
  }
}

object PackReader {

  /** Whole packs in memory, by file name. */
  type PackBytes = Map[String, Array[Byte]]

  private val CacheBytes = 32L << 20

  /** Footers of packs that this executor has read recently, by path. */
  private val footers: Cache[String, Array[Long]] = CacheBuilder
    .newBuilder()
    .maximumWeight(CacheBytes)
    .weigher(new Weigher[String, Array[Long]] {
      override def weigh(path: String, offsets: Array[Long]): Int = 8 * offsets.length + path.length
    })
    .build()
}
