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
 * What waits on one executor for its upload, or is being uploaded, over all shuffles: bounded, so
 * that a store that is slower than the tasks costs checkpoints, and neither disk nor memory.
 *
 * As long as a query runs its shuffle files stay anyway, and names of our own for them cost nothing;
 * but what waits outlives the query. So it may be as large as what its disk has left when it is queued
 * (all that waits against the disk of the one that comes: a bound for each disk, if there are several).
 * What is gathered for one pack on purpose
 * (`UploadQueue.MostBytes`) may wait in any case: on a disk that is nearly full a commit is what
 * frees. The number is bounded for the heap, where an output takes about a kilobyte.
 *
 * @param usable
 *   the bytes that the disk of a file has left
 */
final class Backlog(
    mostOutputs: Int = 20000,
    alwaysBytes: Long = UploadQueue.MostBytes,
    usable: File => Long = _.getUsableSpace
) {
  private var outputs = 0
  private var bytes = 0L

  /** Counts an output in; or the reason why it may not wait, then it does not count. */
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

  /** It is uploaded, or given up. */
  def done(output: LinkedOutput): Unit = synchronized {
    outputs -= 1
    bytes -= output.output.bytes
  }

  /** Outputs that wait or are under way. */
  def size: Int = synchronized(outputs)
}

/** The threads of one executor that upload: a bounded pool, gone when there is nothing to do. */
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

  /** Runs what no upload may hold up: a word with the driver. */
  def aside(what: String)(body: => Unit): Unit =
    FailSafe.unlessOver(asides)(asides.execute(() => kept(what)(body)))

  /** An exception that nobody catches ends an executor: not even an interrupt may leave here. */
  private def kept(what: String)(body: => Unit): Unit =
    try FailSafe.run(what)(body)
    catch { case _: InterruptedException => }

  private lazy val timer = SparkInternals.scheduledThread("phoebe-upload-timer")

  /** Runs `body`, which must not take long, after a while. */
  def later(what: String, delayMs: Long)(body: => Unit): Unit =
    FailSafe.later(timer, delayMs, what)(body)

  def stop(): Unit = {
    threads.shutdownNow()
    asides.shutdownNow()
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
 * @param giveUp tells the driver, from a map task: nothing is waited for
 */
final class UploadQueue(
    pool: UploadPool,
    source: CheckpointSource,
    report: Upload => Boolean,
    giveUp: Upload => Unit
) extends Logging {
  import UploadQueue._

  private val waiting = mutable.Queue.empty[LinkedOutput]

  /** Enough for a pack each, until a thread has time for them. */
  private val batches = mutable.Queue.empty[Vector[LinkedOutput]]
  private var waitingBytes = 0L
  private var waitingBlocks = 0L
  private var started = false
  private var flushing = false
  private var timed = false
  private var closed = false
  private val running = mutable.Set.empty[Thread]

  private lazy val directory = source.place.directory

  /** Made by a thread that uploads, and never under this queue's lock, which map tasks take. */
  private val opened = new Opened(source)
  private def fs: FileSystem = opened.fs

  /** Where too much waits already, the checkpoint is abandoned: no task and no query waits for it. */
  def add(output: LinkedOutput): Unit =
    if (synchronized(closed)) output.release()
    else pool.backlog.take(output) match {
      case Some(reason) =>
        output.release()
        val left = shut()
        giveUp(Upload(null, Array(output.output), 0, reason))
        // Thousands of names, perhaps: not on a map task's time.
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
  def close(): Unit = letGo(shut())

  /** Nothing more is uploaded; what waited is the caller's to let go. */
  private def shut(): Seq[LinkedOutput] = synchronized {
    closed = true
    // Only while they write: they go on to other shuffles, and what they tell the driver is theirs.
    running.foreach(_.interrupt())
    val left = waiting.toList ++ batches.flatten
    waiting.clear()
    batches.clear()
    left
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
      batches.enqueue(batch.toVector)
      pool.run("upload map outputs")(uploadNext())
    }

  private def uploadNext(): Unit =
    synchronized(batches.removeHeadOption()).foreach { batch => // none: closed meanwhile
      val sorted = batch.sortBy(_.output.mapIndex)
      val file = s"m${sorted.head.output.mapIndex}-${sorted.head.output.mapId}.pack"
      // The bytes are in the store, or will not be: whatever the driver says needs no local files.
      val upload =
        try packed(file, sorted)
        finally letGo(sorted)
      settle(file, upload)
    }

  /** Runs what ends at once, with an exception, when the queue is closed. */
  private def untilClosed[T](body: => T): T = {
    synchronized {
      if (closed) throw new InterruptedException
      running += Thread.currentThread
    }
    try body
    finally synchronized {
        running -= Thread.currentThread
        Thread.interrupted() // meant for this body, if for any
      }
  }

  private def isReady: Boolean =
    flushing || waitingBytes >= target || waitingBlocks >= MostBlocks || waiting.size >= mostMaps

  private lazy val isLocal = HadoopFiles.isLocal(directory.toUri)
  private lazy val mostMaps = if (isLocal) MostLocalMaps else MostMaps

  /**
   * Bytes at which a pack is full: so that each reducer's share of it is worth a request; on a local
   * disk, so that it is worth a file.
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

  /** Tells the driver; what it does not want goes. */
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
      // Without an answer the driver may yet hear of it, and count on the file.
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
      case e @ (_: java.io.FileNotFoundException | _: DamagedFileException |
          _: StoreRefusedException) => throw e
      case _: IOException if attempt < Attempts && !synchronized(closed) =>
        discard(file)
        Thread.sleep(PauseMs * attempt)
        withRetries(file, attempt + 1)(body)
    }

  private def discard(file: String): Unit = quietly(fs.delete(new Path(directory, file), false))

  /** The checkpoint will not be: what this executor has written for it goes. */
  private def discardLast(file: String): Unit = {
    discard(file)
    // Other executors' files keep it, and the driver removes those.
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

    /** The driver may still be making the store; where it refuses to, there will be none. */
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
     * A file system makes directories anew for a file: not those of a store that is gone, and not in
     * one that came after it.
     *
     * @throws IOException
     *   if the store is not seen, which may be so for a moment only
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

  /** Segments and map tasks in a pack: bounds for the memory and the open files of its writer. */
  private val MostBlocks = 2L << 20
  private val MostMaps = 1000
  private val MostLocalMaps = 200
  private val LongestMs = 5000L
  private val Attempts = 3
  private val PauseMs = 500L
}
