package org.apache.spark.sql.execution.phoebe

import java.util.concurrent.atomic.AtomicBoolean
import java.util.concurrent.{CompletableFuture, ConcurrentHashMap, TimeoutException, TimeUnit}

import scala.concurrent.{Await, ExecutionContext, ExecutionContextExecutorService, Future}
import scala.concurrent.duration._
import scala.jdk.CollectionConverters._

import org.apache.hadoop.fs.Path

import org.apache.spark.broadcast.Broadcast
import org.apache.spark.internal.Logging
import org.apache.spark.scheduler.{SparkListener, SparkListenerEvent}
import org.apache.spark.sql.execution.ui.SparkListenerSQLExecutionEnd
import org.apache.spark.util.{SerializableConfiguration, ShutdownHookManager, ThreadUtils}

/**
 * The checkpoint side of one application: the store and what it held at the start, the verdicts of
 * running executions, what was written and restored, and what becomes of that at the end.
 */
private[phoebe] final class CheckpointRuntime(val phoebe: PhoebeRuntime) extends SparkListener
    with Logging {
  import CheckpointRuntime.InputLook

  private val sc = phoebe.sparkContext
  val store =
    new CheckpointStore(phoebe.settings.checkpointDir, sc.hadoopConfiguration, sc.sparkUser)

  /** Commits and removals wait for executors and for the store; never on Spark's own threads. */
  val pool: ExecutionContextExecutorService = ExecutionContext.fromExecutorService(
    ThreadUtils.newDaemonCachedThreadPool("phoebe-commit", 16)
  )

  lazy val hadoopConf: Broadcast[SerializableConfiguration] =
    SerializableConfiguration.broadcast(sc, sc.hadoopConfiguration)

  private val executions = new ConcurrentHashMap[Long, ExecutionState]()
  private val written = ConcurrentHashMap.newKeySet[Path]()
  private val stored = ConcurrentHashMap.newKeySet[Int]()
  private val restoredDirectories = ConcurrentHashMap.newKeySet[Path]()
  private val mayWait = new AtomicBoolean(true)
  @volatile private var failures = 0

  /** What the store held when the application started, read once in the background. */
  private val index = CompletableFuture.supplyAsync[Map[String, CommittedCheckpoint]](
    () =>
      Guard("read the store's index", Map.empty[String, CommittedCheckpoint]) {
        store.prepare()
        store.readIndex()
      },
    pool
  )

  /**
   * The committed checkpoints. Only the application's first caller waits for the index, for at most
   * the advice timeout: the first query of a resumed job is the one that has most to restore. Once
   * that was in vain nobody waits again.
   */
  def known(): Map[String, CommittedCheckpoint] =
    if (index.isDone || mayWait.compareAndSet(true, false)) {
      Guard("wait for the store's index", Map.empty[String, CommittedCheckpoint]) {
        index.get(phoebe.settings.adviceTimeoutMs, TimeUnit.MILLISECONDS)
      }
    } else Map.empty

  def execution(id: Long): ExecutionState = executions.computeIfAbsent(id, _ => new ExecutionState)

  /** Whether this application's shuffle has its outputs in the store. */
  def isInStore(shuffleId: Int): Boolean = stored.contains(shuffleId)

  def committed(shuffleId: Int, directory: Path): Unit = {
    written.add(directory)
    stored.add(shuffleId)
  }

  lazy val restorer = new Restorer(this)

  /** A restored boundary is about to be read (not merely planned, as by EXPLAIN). */
  def restored(
      exchange: RestoredExchangeExec,
      shuffleId: Int,
      checkpoint: CommittedCheckpoint
  ): Unit = {
    stored.add(shuffleId)
    restoredDirectories.add(checkpoint.directory)
    val manifest = checkpoint.manifest
    tell(
      exchange.executionId,
      exchange.fingerprint,
      "restored",
      Some(checkpoint.directory),
      "bytes" -> manifest.bytes,
      "rows" -> manifest.rows,
      "map_count" -> manifest.numMaps,
      "partitions" -> manifest.numPartitions,
      "from_app_id" -> manifest.appId
    )
    logInfo(
      s"phoebe: restores ${manifest.bytes} bytes that ${manifest.appId} left in ${checkpoint.directory}"
    )
  }

  /**
   * Looks at the planned inputs again, right before a commit; a store of inputs that takes long to
   * answer costs the checkpoint, not the query.
   */
  def inputsUnchanged(executionId: Long, fingerprint: String): Either[Reason, Unit] =
    Option(executions.get(executionId)).map(_.verdicts.get(fingerprint)) match {
      case Some(Verdict.Write(_, inputsUnchanged)) =>
        val look = Future(inputsUnchanged())(pool)
        try {
          if (Await.result(look, InputLook)) Right(())
          else Left(Reason("input_changed", "an input file changed between planning and commit"))
        } catch {
          case _: TimeoutException =>
            Left(Reason("input_look_timeout", s"listing the inputs again took over $InputLook"))
        }
      case _ => Left(Reason("execution_over", "the execution ended before the commit"))
    }

  /** Sends a `checkpoint` message (docs/protocol.md). */
  def tell(
      executionId: Long,
      fingerprint: String,
      event: String,
      directory: Option[Path],
      fields: (String, Any)*
  ): Unit = {
    Option(executions.get(executionId)).foreach(_.settled.add(fingerprint))
    phoebe.count(s"checkpoints.$event")
    val known = Map[String, Any](
      "type" -> "checkpoint",
      "execution_id" -> executionId,
      "fingerprint" -> fingerprint,
      "event" -> event,
      "path" -> directory.map(PhoebeSettings.plain),
      "time" -> System.currentTimeMillis()
    ) ++ fields
    phoebe.companion.send(CheckpointRuntime.fields.map(name =>
      name -> known.getOrElse(name, null)
    ): _*)
  }

  override def onOtherEvent(event: SparkListenerEvent): Unit = event match {
    case end: SparkListenerSQLExecutionEnd =>
      if (end.errorMessage.exists(_.nonEmpty)) failures += 1
      Option(executions.get(end.executionId)).toSeq.flatMap(_.unsettled).foreach { fingerprint =>
        tell(
          end.executionId,
          fingerprint,
          "abandoned",
          None,
          "reason" -> CheckpointRuntime.NotRun.toJson
        )
      }
      executions.remove(end.executionId)
    case _ =>
  }

  /**
   * The application ends. Where it ended well nobody will resume it: what it wrote and what it
   * restored is removed, unless it is to be kept or another application may still need it. A stop in
   * the JVM's shutdown (an exit with an error, a signal), or any failed query, keeps everything for
   * the next submission.
   */
  def close(): Unit = {
    val well = failures == 0 && !ShutdownHookManager.inShutdown()
    if (well && phoebe.settings.removeWhenDone) {
      (written.asScala ++ restoredDirectories.asScala).foreach(store.release(_, sc.applicationId))
    }
    pool.shutdown()
  }
}

private[phoebe] object CheckpointRuntime {
  private val InputLook = 10.seconds
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
        phoebe.sparkContext.addSparkListener(made)
        phoebe.slot.set(made)
        made
    }
  }
}
