package org.apache.spark.sql.execution.phoebe

import java.io.{BufferedInputStream, DataInputStream, File, FileInputStream, InputStream}
import java.nio.file.{Files, FileSystemException, NoSuchFileException}
import java.util.concurrent.{LinkedBlockingQueue, ThreadPoolExecutor, TimeUnit}

import scala.collection.mutable
import scala.util.control.NonFatal

import org.apache.hadoop.fs.{FileSystem, Path}

import org.apache.spark.SparkEnv
import org.apache.spark.internal.Logging
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
import org.apache.spark.sql.execution.phoebe.CheckpointMessages.{MapOutput, Upload}
import org.apache.spark.sql.execution.phoebe.store._
import org.apache.spark.util.ThreadUtils

/**
 * A map output with names of our own for its files (hard links), so that the upload does not depend
 * on how long Spark keeps them: its clean-up after a query removes names, not these bytes. They go
 * when the upload is done or given up. Where a file system has no links it is Spark's own files.
 *
 * @param data None where the output is empty: Spark writes no data file then
 * @param checksums Spark's checksum of each segment; None where there is none for these bytes
 * @param links what to remove in the end
 */
private[phoebe] final case class LinkedOutput(
    output: MapOutput,
    data: Option[File],
    index: File,
    checksums: Option[File],
    links: Seq[File]
) {

  /** What goes into a pack: Spark's bytes, decrypted where the application encrypts its files. */
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

  def release(): Unit = links.foreach(link => Files.deleteIfExists(link.toPath))
}

/**
 * A shuffle file of an application that encrypts: each partition's segment begins with an
 * initialisation vector of its own. Gives the plain segments, one after the other.
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

private[phoebe] object LinkedOutput {

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
        .filter(_.length == 8L * output.numPartitions) // Spark makes no promise that it is there
    } else None

  /**
   * Where Spark merges spills by compressing them anew, its checksums are those of the spills; and
   * what it encrypts is stored decrypted.
   */
  private def checksumsAreOfFiles(env: SparkEnv): Boolean =
    env.securityManager.getIOEncryptionKey().isEmpty &&
      env.conf.get(SHUFFLE_UNSAFE_FAST_MERGE_ENABLE) &&
      (!env.conf.get(SHUFFLE_COMPRESS) ||
        CompressionCodec.supportsConcatenationOfSerializedStreams(
          CompressionCodec.createCodec(env.conf)
        ))

  /** In the same directory, under a name that Spark takes for no block of its own. */
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

/** The threads of one executor that upload: a bounded pool, gone when there is nothing to do. */
private[phoebe] final class UploadPool(env: SparkEnv) extends Logging {

  private val threads = {
    val count = PhoebeSettings.uploadThreads(env.conf)
    val made = new ThreadPoolExecutor(
      count,
      count,
      10,
      TimeUnit.SECONDS,
      new LinkedBlockingQueue[Runnable](),
      ThreadUtils.namedThreadFactory("phoebe-upload")
    )
    made.allowCoreThreadTimeOut(true)
    made
  }

  /** An exception that nobody catches ends an executor: not even an interrupt may leave here. */
  def run(what: String)(body: => Unit): Unit = threads.execute { () =>
    try Guard.run(what)(body)
    catch { case _: InterruptedException => }
  }

  private lazy val timer = ThreadUtils.newDaemonSingleThreadScheduledExecutor("phoebe-upload-timer")

  /** Runs `body`, which must not take long, after a while. */
  def later(what: String, delayMs: Long)(body: => Unit): Unit =
    Guard.run(what)(timer.schedule(
      (() => Guard.run(what)(body)): Runnable,
      delayMs,
      TimeUnit.MILLISECONDS
    ): Unit)

  def stop(): Unit = {
    threads.shutdownNow()
    timer.shutdownNow()
  }
}

/**
 * The map outputs of one shuffle that wait on this executor for their upload.
 *
 * Outputs are gathered until there is enough for a pack, or the map stage is over. On a local disk
 * that is little, and most outputs become packs of their own at once, read back from the page cache;
 * on any other store as much as makes a reducer's share of it worth a request.
 *
 * @param report tells the driver, which answers whether to go on
 */
private[phoebe] final class UploadQueue(
    pool: UploadPool,
    source: CheckpointSource,
    report: Upload => Boolean
) extends Logging {
  import UploadQueue._

  private val waiting = mutable.Queue.empty[LinkedOutput]
  private var waitingBytes = 0L
  private var waitingBlocks = 0L
  private var started = false
  private var flushing = false
  private var timed = false
  private var closed = false
  private val running = mutable.Set.empty[Thread]

  private lazy val directory = source.place.directory

  /** Made by a thread that uploads, and never under this queue's lock, which map tasks take. */
  private val opened = new Opened(directory, source)
  private def fs: FileSystem = opened.fs

  def add(output: LinkedOutput): Unit = {
    val refused = synchronized {
      if (!closed) {
        waiting.enqueue(output)
        waitingBytes += output.output.bytes
        waitingBlocks += output.output.numPartitions
        dispatch()
        if (waiting.nonEmpty && isLocal && !timed) {
          timed = true
          pool.later("upload what has waited", LongestMs)(timeIsUp())
        }
      }
      closed
    }
    if (refused) output.release()
  }

  /** Uploads may begin: the driver knows of this executor. */
  def start(stageIsOver: Boolean): Unit = synchronized {
    started = true
    flushing ||= stageIsOver
    dispatch()
  }

  /** Little waits on a local disk, and not for long: its executor may be taken away. */
  private def timeIsUp(): Unit = synchronized {
    timed = false
    dispatch(all = true)
  }

  /** No more outputs are expected: what waits goes now. */
  def flush(): Unit = synchronized {
    flushing = true
    dispatch()
  }

  /** Gives up what waits and what is under way. */
  def close(): Unit = {
    val abandoned = synchronized {
      closed = true
      // Only while they are in here: the threads go on to other shuffles.
      running.filter(_ ne Thread.currentThread).foreach(_.interrupt())
      val left = waiting.toList
      waiting.clear()
      left
    }
    abandoned.foreach(_.release())
  }

  /** @param all also what is not enough for a pack yet */
  private def dispatch(all: Boolean = false): Unit =
    while (started && !closed && waiting.nonEmpty && (all || isReady)) {
      val batch = mutable.ArrayBuffer.empty[LinkedOutput]
      var bytes = 0L
      var blocks = 0L
      while (
        waiting.nonEmpty && (batch.isEmpty || bytes < target && blocks < MostBlocks && batch.size < mostMaps)
      ) {
        val next = waiting.dequeue()
        bytes += next.output.bytes
        blocks += next.output.numPartitions
        batch += next
      }
      waitingBytes -= bytes
      waitingBlocks -= blocks
      val outputs = batch.toVector
      pool.run("upload map outputs") {
        val begun = synchronized(!closed && running.add(Thread.currentThread))
        try if (begun) uploadAll(outputs)
        finally {
          outputs.foreach(_.release())
          synchronized {
            running -= Thread.currentThread
            Thread.interrupted() // meant for this upload, if for any
          }
        }
      }
    }

  private def isReady: Boolean =
    flushing || waitingBytes >= target || waitingBlocks >= MostBlocks || waiting.size >= mostMaps

  private lazy val isLocal = StoreFiles.isLocal(directory.toUri)
  private lazy val mostMaps = if (isLocal) MostLocalMaps else MostMaps

  /**
   * Bytes at which a pack is full: so that each reducer's share of it is worth a request; on a local
   * disk, so that it is worth a file.
   */
  private lazy val target: Long =
    if (isLocal) LocalBytes
    else math.max(LeastBytes, math.min(MostBytes, waiting.head.output.numPartitions * ShareBytes))

  private def uploadAll(batch: Vector[LinkedOutput]): Unit = {
    val start = System.nanoTime()
    val sorted = batch.sortBy(_.output.mapIndex)
    val maps = sorted.map(_.output).toArray
    val file = s"m${maps.head.mapIndex}-${maps.head.mapId}.pack"
    val result =
      try {
        val pack = withRetries(file)(write(file, sorted))
        Upload(pack, maps, System.nanoTime() - start, null)
      } catch {
        case e @ (NonFatal(_) | _: LinkageError | _: InterruptedException) =>
          Upload(null, maps, 0, e.toString)
      }
    if (synchronized(closed)) discardLast(file)
    else {
      if (result.error != null) {
        logWarning(s"phoebe: uploading to $directory failed: ${result.error}")
      }
      val answer =
        try Some(report(result))
        catch {
          case NonFatal(e) =>
            logWarning(s"phoebe: the driver did not answer, uploads to $directory end: $e")
            None
        }
      if (!answer.contains(true)) close()
      // Without an answer the driver may yet hear of it, and count on the file.
      if (answer.contains(false)) discardLast(file)
    }
  }

  private def write(file: String, batch: Vector[LinkedOutput]): store.Pack = {
    val sources = batch.map(_.source(SparkEnv.get))
    val out = StoreFiles.create(fs, new Path(directory, file))
    var whole = false
    try {
      val pack = PackWriter.write(
        file,
        sources,
        out,
        beforeChunk = () => if (Thread.interrupted()) throw new InterruptedException
      )
      whole = true
      pack
    } finally {
      // Closing publishes the file on an object store; half of one is removed by the caller.
      if (whole) out.close()
      else
        try out.close()
        catch { case NonFatal(_) => }
    }
  }

  private def withRetries[T](file: String, attempt: Int = 1)(body: => T): T =
    try body
    catch {
      case e @ (_: java.io.FileNotFoundException | _: DamagedFileException) => throw e
      case _: java.io.IOException if attempt < Attempts && !synchronized(closed) =>
        discard(file)
        Thread.sleep(PauseMs * attempt)
        withRetries(file, attempt + 1)(body)
    }

  private def discard(file: String): Unit = quietly(fs.delete(new Path(directory, file), false))

  /** The checkpoint will not be: what this executor has written for it goes. */
  private def discardLast(file: String): Unit = {
    discard(file)
    // Not recursive: other executors' files keep it, and the driver removes those.
    quietly(if (fs.listStatus(directory).isEmpty) fs.delete(directory, false))
  }

  private def quietly(body: => Any): Unit =
    try body
    catch { case NonFatal(_) => }
}

private[phoebe] object UploadQueue {
  private final class Opened(directory: => Path, source: CheckpointSource) {
    lazy val fs: FileSystem = StoreFiles.fileSystem(directory, source.conf.value.value)
  }

  private val LocalBytes = 4L << 20
  private val ShareBytes = 2L << 20
  private val LeastBytes = 64L << 20
  private val MostBytes = 1L << 30

  /** Segments and map tasks in a pack: bounds for the memory and the open files of its writer. */
  private val MostBlocks = 2L << 20
  private val MostMaps = 1000
  private val MostLocalMaps = 200
  private val LongestMs = 5000L
  private val Attempts = 3
  private val PauseMs = 500L
}
