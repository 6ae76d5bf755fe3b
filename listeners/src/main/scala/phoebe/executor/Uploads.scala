package phoebe.executor

import java.io.{File, IOException}
import java.util.concurrent.{LinkedBlockingQueue, ThreadPoolExecutor, TimeUnit}

import scala.collection.mutable
import scala.util.control.NonFatal

import org.apache.hadoop.fs.{FileSystem, Path}

import org.apache.spark.SparkEnv
import org.apache.spark.internal.Logging
import org.apache.spark.sql.execution.phoebe.compat.SparkInternals
import org.apache.spark.sql.execution.phoebe.executor.{CheckpointSource, LinkedOutput}
import org.apache.spark.sql.execution.phoebe.rpc.CheckpointMessages.Upload
import phoebe.{FailSafe, Reason}
import phoebe.files.{DamagedFileException, HadoopFiles}
import phoebe.settings.PhoebeSettings
import phoebe.store.{Pack, PackWriter, StoreMarker, StoreRefusedException}

/**
 * The map outputs of one executor that are queued or being uploaded, over all shuffles. It is bounded:
 * a store that is slower than the tasks costs checkpoints, but neither disk nor memory.
 *
 * While a query runs, Spark keeps its shuffle files anyway, and our hard links cost nothing. But queued
 * outputs outlive the query. So all queued bytes together may not exceed the free space of the new
 * output's disk (with several disks, each one sets such a bound). The bytes collected for one pack
 * (`UploadQueue.MostBytes`) may always be queued, because on a nearly full disk only a commit frees
 * space. The number of outputs is bounded for the heap, where each takes about a kilobyte.
 *
 * @param usable
 *   the free bytes of a file's disk
 */
final class Backlog(
    mostOutputs: Int = 20000,
    alwaysBytes: Long = UploadQueue.MostBytes,
    usable: File => Long = _.getUsableSpace
) {
  private var outputs = 0
  private var bytes = 0L

  /** Counts an output; or the reason why it may not be queued, in which case it is not counted. */
  def take(output: LinkedOutput): Option[Reason] = {
    val left = usable(output.index.getParentFile)
    synchronized {
      val more = bytes + output.output.bytes
      if (outputs >= mostOutputs || more > math.max(alwaysBytes, left))
        Some(Reason(
          "uploads_behind",
          s"the store takes in less than the tasks put out: $outputs map outputs of $bytes bytes " +
            s"wait on one executor, whose disk has $left bytes left",
          Map("waiting_outputs" -> outputs, "waiting_bytes" -> bytes, "disk_left_bytes" -> left)
        ))
      else {
        outputs += 1
        bytes = more
        None
      }
    }
  }

  /** The output was uploaded or given up. */
  def done(output: LinkedOutput): Unit = synchronized {
    outputs -= 1
    bytes -= output.output.bytes
  }

  /** Outputs that are queued or being uploaded. */
  def size: Int = synchronized(outputs)
}

/** The upload threads of one executor: a bounded pool, whose threads end when they are idle. */
final class UploadPool(env: SparkEnv, val backlog: Backlog = new Backlog)
    extends Logging {

  private val threads = {
    val count = PhoebeSettings.uploadThreads(env.conf)
    val made = new ThreadPoolExecutor(
      count,
      count,
      10,
      TimeUnit.SECONDS,
      new LinkedBlockingQueue[Runnable](),
      SparkInternals.threadFactory("phoebe-upload")
    )
    made.allowCoreThreadTimeOut(true)
    made
  }

  def run(what: String)(body: => Unit): Unit =
    FailSafe.unlessOver(threads)(threads.execute(() => kept(what)(body)))

  private val asides = SparkInternals.cachedThreads("phoebe-aside", 2, 10)

  /** Runs a call to the driver on a separate thread, so that it does not wait for uploads. */
  def aside(what: String)(body: => Unit): Unit =
    FailSafe.unlessOver(asides)(asides.execute(() => kept(what)(body)))

  /** Catches everything, also an interrupt: an uncaught exception would end the executor. */
  private def kept(what: String)(body: => Unit): Unit =
    try FailSafe.run(what)(body)
    catch { case _: InterruptedException => }

  private lazy val timer = SparkInternals.scheduledThread("phoebe-upload-timer")

  /** Runs `body`, which must be short, after a delay. */
  def later(what: String, delayMs: Long)(body: => Unit): Unit =
    FailSafe.later(timer, delayMs, what)(body)

  def stop(): Unit = {
    threads.shutdownNow()
    asides.shutdownNow()
    timer.shutdownNow()
  }
}

/**
 * The map outputs of one shuffle that are queued on this executor.
 *
 * Outputs are collected until there are enough bytes for a pack, or the map stage is over. On a local
 * disk few bytes are enough: most outputs become packs of their own at once, read from the page cache.
 * On any other store a reducer's share of the pack must be worth a request.
 *
 * @param report reports an upload to the driver, which answers whether to go on
 * @param giveUp reports to the driver, from a map task, without waiting for an answer
 */
final class UploadQueue(
    pool: UploadPool,
    source: CheckpointSource,
    report: Upload => Boolean,
    giveUp: Upload => Unit
) extends Logging {
  import UploadQueue._

  private val waiting = mutable.Queue.empty[LinkedOutput]

  /** Outputs for one pack each, until an upload thread is free. */
  private val batches = mutable.Queue.empty[Vector[LinkedOutput]]
  private var waitingBytes = 0L
  private var waitingBlocks = 0L
  private var started = false
  private var flushing = false
  private var timed = false
  private var closed = false
  private val running = mutable.Set.empty[Thread]

  private lazy val directory = source.place.directory

  /** Opened by an upload thread, and never under this queue's lock, which map tasks take. */
  private val opened = new Opened(source)
  private def fs: FileSystem = opened.fs

  /** Queues an output. If too much is queued already, the checkpoint is abandoned; no task waits. */
  def add(output: LinkedOutput): Unit =
    if (synchronized(closed)) output.release()
    else pool.backlog.take(output) match {
      case Some(reason) =>
        output.release()
        val left = shut()
        giveUp(Upload(null, Array(output.output), 0, reason))
        // There may be thousands of links to remove, so not on the map task's thread.
        pool.later("let go of map outputs", 0)(letGo(left))
      case None => if (!enqueue(output)) letGo(Seq(output))
    }

  private def enqueue(output: LinkedOutput): Boolean = synchronized {
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
    !closed
  }

  private def letGo(outputs: Iterable[LinkedOutput]): Unit = outputs.foreach { output =>
    output.release()
    pool.backlog.done(output)
  }

  /** Lets uploads begin: the driver knows this executor. */
  def start(stageIsOver: Boolean): Unit = synchronized {
    started = true
    flushing ||= stageIsOver
    dispatch()
  }

  /** Uploads small outputs on a local disk after a short time, because the executor may be removed. */
  private def timeIsUp(): Unit = synchronized {
    timed = false
    dispatch(all = true)
  }

  /** No more outputs are expected: uploads the queued ones now. */
  def flush(): Unit = synchronized {
    flushing = true
    dispatch()
  }

  /** Gives up queued and running uploads. */
  def close(): Unit = letGo(shut())

  /** Ends all uploads. The caller must release the returned outputs. */
  private def shut(): Seq[LinkedOutput] = synchronized {
    closed = true
    // Interrupt only threads that are writing: they serve other shuffles too, and their messages
    // to the driver must be sent.
    running.foreach(_.interrupt())
    val left = waiting.toList ++ batches.flatten
    waiting.clear()
    batches.clear()
    left
  }

  /** @param all whether to upload also fewer outputs than a pack needs */
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
      batches.enqueue(batch.toVector)
      pool.run("upload map outputs")(uploadNext())
    }

  private def uploadNext(): Unit =
    synchronized(batches.removeHeadOption()).foreach { batch => // none: closed meanwhile
      val sorted = batch.sortBy(_.output.mapIndex)
      val file = s"m${sorted.head.output.mapIndex}-${sorted.head.output.mapId}.pack"
      // The upload has succeeded or failed, so the local files are no longer needed.
      val upload =
        try packed(file, sorted)
        finally letGo(sorted)
      settle(file, upload)
    }

  /** Runs `body`, which is interrupted when the queue is closed. */
  private def untilClosed[T](body: => T): T = {
    synchronized {
      if (closed) throw new InterruptedException
      running += Thread.currentThread
    }
    try body
    finally synchronized {
        running -= Thread.currentThread
        Thread.interrupted() // an interrupt was for this body; clear it
      }
  }

  private def isReady: Boolean =
    flushing || waitingBytes >= target || waitingBlocks >= MostBlocks || waiting.size >= mostMaps

  private lazy val isLocal = HadoopFiles.isLocal(directory.toUri)
  private lazy val mostMaps = if (isLocal) MostLocalMaps else MostMaps

  /**
   * The bytes at which a pack is full: enough that each reducer's share is worth a request or, on a local
   * disk, that the pack is worth a file.
   */
  private lazy val target: Long =
    if (isLocal) LocalBytes
    else math.max(LeastBytes, math.min(MostBytes, waiting.head.output.numPartitions * ShareBytes))

  private def packed(file: String, sorted: Vector[LinkedOutput]): Upload = {
    val start = System.nanoTime()
    val maps = sorted.map(_.output).toArray
    try {
      val pack = untilClosed(withRetries(file)(write(file, sorted)))
      Upload(pack, maps, System.nanoTime() - start, null)
    } catch {
      case e @ (NonFatal(_) | _: LinkageError | _: InterruptedException) => Upload.failed(maps, e)
    }
  }

  /** Reports the upload; deletes the file if the driver no longer wants it. */
  private def settle(file: String, upload: Upload): Unit =
    if (synchronized(closed)) discardLast(file)
    else {
      if (upload.error != null) {
        logWarning(s"phoebe: no pack for $directory: ${upload.error}")
      }
      val answer =
        try Some(report(upload))
        catch {
          case NonFatal(e) =>
            logWarning(s"phoebe: the driver did not answer, uploads to $directory end: $e")
            None
        }
      if (!answer.contains(true)) close()
      // Without an answer the driver may still receive the report, and need the file.
      if (answer.contains(false)) discardLast(file)
    }

  private def write(file: String, batch: Vector[LinkedOutput]): Pack = {
    val sources = batch.map(_.source(SparkEnv.get))
    opened.check()
    val out = HadoopFiles.create(fs, new Path(directory, file))
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
      // Closing publishes the file on an object store; the caller removes an incomplete one.
      if (whole) out.close()
      else
        try out.close()
        catch { case NonFatal(_) => }
    }
  }

  private def withRetries[T](file: String, attempt: Int = 1)(body: => T): T =
    try body
    catch {
      case e @ (_: java.io.FileNotFoundException | _: DamagedFileException |
          _: StoreRefusedException) => throw e
      case _: IOException if attempt < Attempts && !synchronized(closed) =>
        discard(file)
        Thread.sleep(PauseMs * attempt)
        withRetries(file, attempt + 1)(body)
    }

  private def discard(file: String): Unit = quietly(fs.delete(new Path(directory, file), false))

  /** The checkpoint is given up: deletes what this executor has written for it. */
  private def discardLast(file: String): Unit = {
    discard(file)
    // A directory with other executors' files is kept; the driver removes those files.
    quietly(Seq(directory, directory.getParent).foreach(HadoopFiles.removeIfEmpty(fs, _)))
  }

  private def quietly(body: => Any): Unit =
    try body
    catch { case NonFatal(_) => }
}

object UploadQueue {
  private val StoreNs = 10L * 1000 * 1000 * 1000
  private val StorePauseMs = 100L

  private final class Opened(source: CheckpointSource) {

    private def root = source.place.root
    lazy val fs: FileSystem = HadoopFiles.fileSystem(root, source.conf.value.value)

    /** The store's marker. The driver may still be creating it, unless it has refused the directory. */
    private lazy val marker: StoreMarker = {
      val deadline = System.nanoTime() + StoreNs
      var found = StoreMarker.read(fs, root)
      while (found.isEmpty) {
        if (System.nanoTime() > deadline) throw new StoreRefusedException(
          s"$root is no checkpoint store: it has no ${StoreMarker.Name}"
        )
        Thread.sleep(StorePauseMs)
        found = StoreMarker.read(fs, root)
      }
      found.get
    }

    /**
     * Checks that the store is still there: writing a file would create the directories of a deleted
     * store again, or write into a store that replaced it.
     *
     * @throws IOException
     *   if the store is not found; that may be temporary
     */
    def check(): Unit = {
      val expected = marker
      if (!StoreMarker.read(fs, root).contains(expected)) {
        throw new IOException(s"the store $root is gone, or another one is there")
      }
    }
  }

  private val LocalBytes = 4L << 20
  private val ShareBytes = 2L << 20
  private val LeastBytes = 64L << 20
  val MostBytes: Long = 1L << 30

  /** Limits of segments and map tasks in a pack, for the memory and the open files of its writer. */
  private val MostBlocks = 2L << 20
  private val MostMaps = 1000
  private val MostLocalMaps = 200
  private val LongestMs = 5000L
  private val Attempts = 3
  private val PauseMs = 500L
}
