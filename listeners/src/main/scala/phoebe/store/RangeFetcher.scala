package phoebe.store

import java.io.{Closeable, InterruptedIOException, IOException}
import java.nio.channels.ClosedByInterruptException
import java.util.concurrent.{
  ExecutionException,
  Future,
  ThreadPoolExecutor,
  TimeoutException,
  TimeUnit
}

import scala.collection.mutable

import org.apache.hadoop.fs.{FSDataInputStream, FSError, FileSystem, Path}

import org.apache.spark.sql.execution.phoebe.compat.SparkInternals
import phoebe.files.HadoopFiles

/** Bytes `start` until `end` of a file of `fileBytes` bytes. */
private[phoebe] final case class FileRange(path: Path, fileBytes: Long, start: Long, end: Long) {
  def size: Int = (end - start).toInt

  /** The same bytes, as ranges of one request each. */
  def split(requestBytes: Int): Iterator[FileRange] =
    Iterator.iterate(start)(_ + requestBytes).takeWhile(_ < end).map { from =>
      FileRange(path, fileBytes, from, math.min(end, from + requestBytes))
    }
}

/**
 * Fetches ranges of a store's files for one reader, in the order in which they will be read.
 *
 * On a local disk a range is read on demand, from a file that stays open. On any other store each range
 * is one request. The next requests are under way while one range is read, so a reader waits for the
 * store's bandwidth and not for its latency. A reader holds the bytes of at most `Ahead` + 1 requests.
 * Files held in memory are not requested from the store.
 *
 * Not thread safe.
 */
final class RangeFetcher(
    store: => FileSystem,
    timeoutMs: Long = RangeFetcher.DefaultTimeoutMs,
    held: PackReader.PackBytes = Map.empty
) extends Closeable {
  import RangeFetcher._

  private lazy val fs = store

  /** Whether ranges are read on demand, from a local disk or from memory. */
  val isLocal: Boolean = held.nonEmpty || HadoopFiles.isLocal(fs)
  val requestBytes: Int = if (isLocal) LocalRequestBytes else RemoteRequestBytes

  private var planned: Iterator[FileRange] = Iterator.empty
  private val underWay = mutable.Queue.empty[(FileRange, Future[Array[Byte]])]
  private var open: FSDataInputStream = _
  private var openPath: Path = _
  private var buffer = Array.emptyByteArray

  /** Sets the ranges that [[next]] returns, one after the other. */
  def plan(ranges: Iterator[FileRange]): Unit = {
    cancel()
    planned = ranges
  }

  def hasNext: Boolean = planned.hasNext || underWay.nonEmpty

  /** The next planned range's bytes, from index 0 on; valid until the next call. */
  def next(): (FileRange, Array[Byte]) =
    if (isLocal) {
      val range = planned.next()
      range -> fetch(range)
    } else {
      fillAhead()
      val (range, bytes) = underWay.dequeue()
      fillAhead()
      range -> awaited(bytes)
    }

  /** A range out of order; valid until the next call. */
  def fetch(range: FileRange): Array[Byte] =
    if (isLocal) {
      if (buffer.length < range.size) {
        buffer = new Array[Byte](math.max(range.size, math.min(2 * buffer.length, requestBytes)))
      }
      held.get(range.path.getName) match {
        case Some(bytes) => System.arraycopy(bytes, range.start.toInt, buffer, 0, range.size)
        case None => fetchLocal(range)
      }
      buffer
    } else awaited(submit(range))

  private def fillAhead(): Unit =
    while (underWay.size < Ahead && planned.hasNext) {
      val range = planned.next()
      underWay.enqueue(range -> submit(range))
    }

  private def submit(range: FileRange): Future[Array[Byte]] =
    pool.submit(() => withRetries(fs, range)(request(fs, range)))

  private def awaited(bytes: Future[Array[Byte]]): Array[Byte] =
    try bytes.get(timeoutMs, TimeUnit.MILLISECONDS)
    catch {
      case e: ExecutionException => throw HadoopFiles.causeOf(e)
      case _: TimeoutException =>
        bytes.cancel(true)
        throw new IOException(s"${fs.getUri}: no answer in $timeoutMs ms")
    }

  private def fetchLocal(range: FileRange): Unit = withRetries(fs, range) {
    try {
      if (open == null || openPath != range.path) {
        closeFile()
        open = fs.open(range.path, SkipBuffer)
        openPath = range.path
      }
      if (open.getPos != range.start) open.seek(range.start)
      open.readFully(buffer, 0, range.size)
    } catch {
      case e @ (_: IOException | _: FSError) =>
        closeFile()
        throw e
    }
  }

  private def closeFile(): Unit = if (open != null) {
    val closing = open
    open = null
    closing.close()
  }

  private def cancel(): Unit = {
    underWay.foreach(_._2.cancel(true))
    underWay.clear()
    planned = Iterator.empty
  }

  override def close(): Unit = {
    cancel()
    closeFile()
  }
}

object RangeFetcher {

  /** The default time-out for an answer of the store. */
  val DefaultTimeoutMs = 60000L
  private val LocalRequestBytes = 1 << 20
  private val RemoteRequestBytes = 8 << 20

  /** Requests under way, besides the one that is being read. */
  private val Ahead = 2

  /** Local ranges are read into our own buffer: a stream's own buffer would cost another copy. */
  private val SkipBuffer = 1
  private val Attempts = 3
  private val PauseMs = 200L

  private var threads: Option[ThreadPoolExecutor] = None

  private def pool: ThreadPoolExecutor = synchronized {
    threads.getOrElse {
      val made = SparkInternals.cachedThreads("phoebe-read", 16)
      threads = Some(made)
      made
    }
  }

  /** Stops the threads at the application's end. Another one in this process starts new threads. */
  def stop(): Unit = synchronized {
    threads.foreach(_.shutdownNow())
    threads = None
  }

  private def request(fs: FileSystem, range: FileRange): Array[Byte] =
    HadoopFiles.readRange(fs, range.path, range.fileBytes, range.start, range.size)

  /** Retries a failed request. A byte that is missing for good is damage. */
  private def withRetries[T](fs: FileSystem, range: FileRange, attempt: Int = 1)(body: => T): T =
    try body
    catch {
      case e @ (_: InterruptedIOException | _: ClosedByInterruptException) => throw e
      case e @ (_: IOException | _: ExecutionException | _: FSError) =>
        HadoopFiles.damage(fs, range.path, range.fileBytes, e).foreach(throw _)
        if (attempt >= Attempts) throw HadoopFiles.undecided(e)
        Thread.sleep(PauseMs * attempt)
        withRetries(fs, range, attempt + 1)(body)
    }
}
