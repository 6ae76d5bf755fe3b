package phoebe.driver

import java.util.concurrent.atomic.{AtomicBoolean, AtomicLong}
import java.util.concurrent.{ConcurrentHashMap, CountDownLatch, ThreadPoolExecutor, TimeUnit}

import scala.concurrent.{ExecutionContext, ExecutionContextExecutorService}
import scala.jdk.CollectionConverters._

import org.apache.spark.SparkContext
import org.apache.spark.broadcast.Broadcast
import org.apache.spark.internal.Logging
import org.apache.spark.scheduler.{
  JobSucceeded,
  SparkListener,
  SparkListenerApplicationEnd,
  SparkListenerBlockUpdated,
  SparkListenerEvent,
  SparkListenerExecutorAdded,
  SparkListenerExecutorRemoved,
  SparkListenerJobEnd,
  SparkListenerJobStart
}
import org.apache.spark.sql.execution.{SparkPlan, SQLExecution}
import org.apache.spark.sql.execution.ui.SparkListenerSQLExecutionEnd
import org.apache.spark.storage.ShuffleIndexBlockId
import org.apache.spark.util.SerializableConfiguration
import org.apache.spark.sql.execution.phoebe.compat.{SparkInternals, SparkVersion}
import org.apache.spark.sql.execution.phoebe.driver.{
  CheckpointAttempt,
  CheckpointedShuffle,
  CheckpointedShuffles,
  CheckpointEndpoint,
  RestoredShuffle
}
import org.apache.spark.sql.execution.phoebe.exchange.{RestoredExchangeExec, RestoredOutputs}
import org.apache.spark.sql.execution.phoebe.rpc.CheckpointMessages.Stored
import phoebe.{FailSafe, Reason}
import phoebe.fingerprint.{Inputs, Listings, RanScan}
import phoebe.plugin.PhoebeRuntime
import phoebe.settings.{LocalProperties, PhoebeSettings}
import phoebe.store.{
  CatalogEntry,
  CheckpointPlace,
  CheckpointStore,
  CommittedCheckpoint,
  RangeFetcher
}

/**
 * The checkpoint side of one application: the store with its index from the start, the verdicts of
 * running executions, the checkpoints that were written and restored, and their removal at the end.
 */
final class CheckpointRuntime(val phoebe: PhoebeRuntime) extends SparkListener
    with Logging {
  import CheckpointRuntime._

  private val sc = phoebe.sparkContext
  def sparkContext: SparkContext = sc
  val store = new CheckpointStore(
    phoebe.settings.checkpointDir,
    sc.hadoopConfiguration,
    phoebe.settings.leaseMs,
    phoebe.settings.sharesCheckpoints
  )
  val shuffles = new CheckpointedShuffles

  /** Commits and removals wait for executors and for the store; never on Spark's own threads. */
  val pool: ExecutionContextExecutorService = ExecutionContext.fromExecutorService(
    SparkInternals.cachedThreads("phoebe-commit", 16)
  )

  /** For checks that planning waits for, so nothing else may run here. */
  val looks: ExecutionContextExecutorService = ExecutionContext.fromExecutorService(
    SparkInternals.cachedThreads("phoebe-look", 16)
  )

  /** For planning the original inputs of restored boundaries; may run jobs, and wait for each other. */
  val plannings: ThreadPoolExecutor = SparkInternals.cachedThreads("phoebe-plan", 64)

  lazy val hadoopConf: Broadcast[SerializableConfiguration] =
    SparkVersion.broadcast(sc, sc.hadoopConfiguration)

  private val executions = new ConcurrentHashMap[Long, ExecutionState]()
  private val written = new SupersededCheckpoints
  private val releasing = new AtomicBoolean
  private val looksAtMoved = new AtomicBoolean
  private val restoredPlaces = ConcurrentHashMap.newKeySet[CheckpointPlace]()
  private val clock = SparkInternals.scheduledThread("phoebe-checkpoint-clock")
  private val access = new StoreAccess(store, phoebe.settings, pool, clock)

  private val lookMs = new AtomicLong(phoebe.settings.lookTimeoutMs)
  private val plainJobs = ConcurrentHashMap.newKeySet[Int]()
  @volatile private var failures = 0
  private val heardEnd = new CountDownLatch(1)

  /** See [[StoreAccess]]. */
  def noStore: Option[Reason] = access.noStore
  def needsStore(): Unit = access.needsStore()
  def known(): Map[String, Seq[CatalogEntry]] = access.known()

  /** How long a query's planning may wait for checks of checkpoints. */
  def lookTimeoutMs: Long = lookMs.get()

  /**
   * A query's check has timed out, and its boundary is computed. The next query's limit is half as long,
   * so a store that hangs costs an application little more than its first two waits.
   */
  def lookedInVain(): Unit =
    lookMs.updateAndGet(ms => math.min(ms, math.max(ms / 2, phoebe.settings.adviceTimeoutMs))): Unit

  def execution(id: Long): ExecutionState = executions.computeIfAbsent(id, _ => new ExecutionState)

  /** The state of an execution that has not ended, if its first plan was examined. */
  def running(id: Long): Option[ExecutionState] = Option(executions.get(id))

  /** Called when the shuffle has its id. The attempt reports the outcome. */
  def begun(shuffleId: Int, attempt: CheckpointAttempt, fingerprint: String): Unit = {
    needsStore()
    shuffles.put(shuffleId, attempt)
    running(attempt.executionId) match {
      case Some(state) => state.settled.add(fingerprint)
      // The execution has ended: one fragment failed, and Spark goes on with another one.
      case None => giveUpLater(attempt.executionId)
    }
  }

  private def giveUpLater(executionId: Long): Unit =
    later(UploadGraceMs)(giveUpLate(executionId))

  def committed(place: CheckpointPlace): Unit = written.add(place)

  /** Its shuffle's readers now go to the store. */
  def stands(place: CheckpointPlace): Unit = written.stands(place)

  /** The attempt was given up during its commit. */
  def withdrawn(place: CheckpointPlace): Unit = {
    written.withdraw(place)
    store.remove(place)
  }

  /** Drops shuffles that Spark has unregistered, and removes superseded checkpoints. */
  private def forget(): Unit = {
    shuffles.sweep().foreach {
      case attempt: CheckpointAttempt => written.forgotten(attempt.place)
      case _ => // written by another application, so not removed here
    }
    // One removal at a time: it lists the catalogue and reads the leases. Later ones wait for the next.
    if (written.superseded().nonEmpty && releasing.compareAndSet(false, true)) pool.execute { () =>
      try
        FailSafe.run("remove superseded checkpoints") {
          written.gone(store.release(written.superseded()))
        }
      finally releasing.set(false)
    }
  }

  lazy val restorer = new CheckpointVerifier(this)

  /** A restored boundary is about to be read (and not only planned, as by EXPLAIN). */
  def restored(
      exchange: RestoredExchangeExec,
      shuffleId: Int,
      checkpoint: CommittedCheckpoint,
      outputs: RestoredOutputs
  ): Unit = {
    val packs = checkpoint.manifest.packs.map(_.pack).toArray
    shuffles.put(
      shuffleId,
      new RestoredShuffle(exchange.executionId, Stored(checkpoint.place, packs, 0L), outputs)
    )
    restoredPlaces.add(checkpoint.place)
    val manifest = checkpoint.manifest
    tell(
      exchange.executionId,
      exchange.fingerprint,
      "restored",
      Some(checkpoint.place),
      "bytes" -> manifest.bytes,
      "rows" -> manifest.rows,
      "map_count" -> manifest.numMaps,
      "partitions" -> manifest.numPartitions,
      "from_app_id" -> manifest.appId
    )
    logInfo(
      s"phoebe: restores ${manifest.bytes} bytes that ${manifest.appId} left in ${checkpoint.place}"
    )
  }

  /**
   * Makes the check of the inputs, which runs right before a commit, on the commit's own thread, perhaps
   * after the execution's end. When this is called, the stage's scans have listed their files.
   *
   * @param plan
   *   the plan of the stage
   */
  def inputs(
      executionId: Long,
      fingerprint: String,
      plan: SparkPlan
  ): () => Either[Reason, String] =
    running(executionId).map(_.verdicts.get(fingerprint)) match {
      case Some(Verdict.Write(_, inputs)) =>
        val ran =
          FailSafe("see what scans listed", Option.empty[Seq[RanScan]])(Some(Listings.ran(plan)))
        () =>
          ran.fold[Either[Reason, String]](Left(Inputs.unseen("no listing")))(inputs.beforeCommit)
      case _ => () => Left(Reason("execution_over", "the execution ended before it ran"))
    }

  /** Sends a `checkpoint` message (docs/protocol.md). */
  def tell(
      executionId: Long,
      fingerprint: String,
      event: String,
      place: Option[CheckpointPlace],
      fields: (String, Any)*
  ): Unit = {
    running(executionId).foreach(_.settled.add(fingerprint))
    phoebe.count(s"checkpoints.$event")
    val known = Map[String, Any](
      "type" -> "checkpoint",
      "execution_id" -> executionId,
      "fingerprint" -> fingerprint,
      "event" -> event,
      "path" -> place.map(p => PhoebeSettings.plain(p.directory)),
      "time" -> System.currentTimeMillis()
    ) ++ fields
    phoebe.send(CheckpointRuntime.fields.map(name =>
      name -> known.getOrElse(name, null)
    ): _*)
  }

  override def onOtherEvent(event: SparkListenerEvent): Unit = event match {
    case end: SparkListenerSQLExecutionEnd =>
      if (end.errorMessage.exists(_.nonEmpty)) failures += 1
      running(end.executionId).toSeq.flatMap(_.unsettled).foreach { fingerprint =>
        tell(
          end.executionId,
          fingerprint,
          "abandoned",
          None,
          "reason" -> CheckpointRuntime.NotRun.toJson
        )
      }
      executions.remove(end.executionId)
      aside("forget shuffles")(forget())
      if (shuffles.of(end.executionId).exists(!_.isOver)) giveUpLater(end.executionId)
    case _ =>
  }

  override def onApplicationEnd(end: SparkListenerApplicationEnd): Unit = heardEnd.countDown()

  /** Notes jobs outside of any query: if one fails, the application has not ended well either. */
  override def onJobStart(start: SparkListenerJobStart): Unit = {
    val properties = Option(start.properties)
    val plain = properties.forall { p =>
      p.getProperty(SQLExecution.EXECUTION_ID_KEY) == null &&
      p.getProperty(LocalProperties.Internal) == null
    }
    if (plain) plainJobs.add(start.jobId)
  }

  override def onJobEnd(end: SparkListenerJobEnd): Unit =
    if (plainJobs.remove(end.jobId) && end.jobResult != JobSucceeded) failures += 1

  /** Runs short work of a shuffle after a delay, unless the application has ended by then. */
  def later(ms: Long)(body: => Unit): Unit = FailSafe.later(clock, ms, "look again")(body)

  /** Runs work after executors have had time to fetch the locations announced to them. */
  val afterTold: (() => Unit) => Unit = work => later(ToldMs)(work())

  /** Abandons the uploads of an execution that are still not committed after a grace period. */
  private def giveUpLate(executionId: Long): Unit =
    shuffles.of(executionId).filterNot(_.isOver).foreach { shuffle =>
      FailSafe.run("give up an upload")(shuffle.abandon(LateUpload))
    }

  override def onExecutorAdded(added: SparkListenerExecutorAdded): Unit =
    aside("note a new executor")(shuffles.executorAdded(added.executorId))

  override def onExecutorRemoved(removed: SparkListenerExecutorRemoved): Unit =
    aside("note a lost executor")(shuffles.executorLost(removed.executorId))

  /** Spark posts this event when the map output tracker has the new location. */
  override def onBlockUpdated(updated: SparkListenerBlockUpdated): Unit =
    updated.blockUpdatedInfo.blockId match {
      case ShuffleIndexBlockId(shuffleId, mapId, _) if shuffles.moved(shuffleId, mapId) =>
        if (looksAtMoved.compareAndSet(false, true)) later(MovedMs) {
          looksAtMoved.set(false)
          FailSafe.on(pool, "look at moved files")(shuffles.lookAtMoved())
        }
      case _ =>
    }

  /** Runs work off the listener's thread, because it calls executors and the store. */
  private def aside(what: String)(body: => Unit): Unit =
    FailSafe.on(clock, what)(body)

  /**
   * Waits for uploads that the next submission can use; no query waits any more. On a cluster the
   * executors are told to end before a plugin is notified, so there it waits only for commits under way.
   */
  private def awaitCommits(): Unit = {
    val deadline = System.nanoTime() + TimeUnit.MILLISECONDS.toNanos(CloseMs)
    def isComing(s: CheckpointedShuffle) = s.isCommitting || sc.isLocal && s.isUploading
    while (shuffles.all.exists(isComing) && System.nanoTime() < deadline) Thread.sleep(20)
  }

  /**
   * Ends the application's use of the store. If it ended well it will not be resumed: the checkpoints
   * that it wrote and restored are removed, unless the settings keep them or another application may
   * still need them. They are all kept for the next submission after a stop in the JVM's shutdown (an
   * exit with an error, a signal), after any failed query or job, and if the event of the application's
   * end has not arrived: events of failures may come before it.
   */
  def close(): Unit = {
    val heardAll = heardEnd.await(HearMs, TimeUnit.MILLISECONDS)
    val well = heardAll && failures == 0 && !SparkInternals.isShuttingDown
    val remove = well && phoebe.settings.removeWhenDone
    if (!remove) awaitCommits()
    clock.shutdownNow()
    access.shutdown() // the lease itself is dropped below
    shuffles.all.foreach(_.abandon(ApplicationOver))
    pool.execute { () =>
      FailSafe.run("leave the store") {
        try if (remove) store.release(written.all ++ restoredPlaces.asScala): Unit
        finally store.dropLease()
      }
    }
    looks.shutdown()
    plannings.shutdownNow()
    pool.shutdown()
    // A store that hangs must not delay the end for long.
    pool.awaitTermination(CloseMs, TimeUnit.MILLISECONDS)
    RangeFetcher.stop()
  }
}

object CheckpointRuntime {

  /** How long uploads may go on after their execution has ended. */
  private val UploadGraceMs = 60000L

  /** How long an application's end may wait for uploads that the next one can use, or for removals. */
  private val CloseMs = 10000L

  /** How long executors may take to fetch the locations announced to them. */
  private val ToldMs = 60000L

  /** Spark moves an executor's files one by one; after this time they are handled together. */
  private val MovedMs = 200L

  /** How long Spark's last events may take to arrive. */
  private val HearMs = 5000L
  private val LateUpload = Reason(
    "upload_late",
    s"not uploaded within ${UploadGraceMs / 1000} s after the query's end"
  )
  private val ApplicationOver =
    Reason("application_over", "the application ended before the checkpoint was whole")
  private val NotRun = Reason(
    "not_run",
    "the boundary did not run as planned: adaptive execution dropped or changed it, or the query ended"
  )
  private val fields = Seq(
    "type",
    "execution_id",
    "fingerprint",
    "event",
    "path",
    "bytes",
    "rows",
    "map_count",
    "partitions",
    "copy_ms",
    "freed_bytes",
    "from_app_id",
    "reason",
    "stage_id",
    "time"
  )

  /** The application's, made when the plugin starts in a mode that may write or restore. */
  def start(phoebe: PhoebeRuntime): CheckpointRuntime = phoebe.slot.synchronized {
    phoebe.slot.get() match {
      case existing: CheckpointRuntime => existing
      case _ =>
        val made = new CheckpointRuntime(phoebe)
        // A separate queue: slow listeners of others must not hide a failure.
        SparkInternals.addListener(phoebe.sparkContext, made, "phoebe-checkpoints")
        CheckpointEndpoint.open(made.shuffles)
        phoebe.slot.set(made)
        made
    }
  }
}
