package phoebe.plugin

import java.util.concurrent.{ConcurrentHashMap, TimeUnit}
import java.util.concurrent.atomic.{AtomicReference, LongAdder}

import scala.jdk.CollectionConverters._

import org.apache.spark.SparkContext
import org.apache.spark.internal.Logging
import org.apache.spark.sql.internal.SQLConf
import org.apache.spark.sql.execution.phoebe.compat.SparkInternals
import phoebe.{FailSafe, Json, Reason}
import phoebe.driver.CheckpointRuntime
import phoebe.harvest.Companion
import phoebe.planner.{PlanningTimes, SupportChecks}
import phoebe.settings.{Mode, PhoebeSettings}

/**
 * The plugin's state for one application: settings, companion, counters, and the reason for any limit of
 * its mode. There is one for each SparkContext with the plugin; the planner hook gets it from
 * `PhoebeRuntime.active`.
 *
 * @param limit
 *   the most that this Spark build allows, with the reason when that is less than `apply`
 */
final class PhoebeRuntime private[phoebe] (
    val sparkContext: SparkContext,
    val settings: PhoebeSettings,
    val limit: Mode,
    val limitReason: Option[Reason]
) extends Logging {
  val companion: Companion =
    new Companion(settings, sparkContext.hadoopConfiguration)

  private val counters = new ConcurrentHashMap[String, LongAdder]()
  private val complained = ConcurrentHashMap.newKeySet[String]()

  /** Why shuffles of this application cannot be checkpointed at all. */
  private[phoebe] lazy val unknownGround: Option[Reason] = SupportChecks.application(settings)

  /** A query is only observed although the mode allows more: counted, and logged once for each cause. */
  private[phoebe] def observesOnly(reason: Reason): Unit = {
    count(s"left_alone.${reason.code}")
    if (complained.add(reason.message)) logWarning(s"phoebe: observes only: ${reason.message}")
  }

  val planning = new PlanningTimes

  /** For what the planner hook keeps for the whole application (its store handle and index). */
  val slot = new AtomicReference[AnyRef]()

  /** Hands a message to the companion, see [[Companion.send]]. */
  def send(fields: (String, Any)*): Unit = companion.send(fields: _*)

  def count(name: String, by: Long = 1): Unit =
    counters.computeIfAbsent(name, _ => new LongAdder).add(by)

  def counts: Map[String, Long] = counters.asScala.view.mapValues(_.sum()).toMap ++
    FailSafe.counts.map { case (where, n) => s"failed.$where" -> n }

  /**
   * The settings for a query of a session with this configuration, with the mode limited to what the Spark
   * build allows. None: the mode is off, or a value is bad (which is logged once).
   */
  def forQuery(conf: SQLConf): Option[(Mode, PhoebeSettings)] = settings.forQuery(conf) match {
    case Right(s) if s.mode != Mode.Off => Some(s.mode.atMost(limit) -> s)
    case Right(_) => None
    case Left(problem) =>
      if (complained.add(problem)) logError(s"phoebe: off for this session's queries: $problem")
      None
  }

  /** False if the application started with mode `off`: then nothing is harvested. */
  def harvesting: Boolean = settings.mode != Mode.Off

  /** Whether checkpoints are read or written from the start: a session may do so later in any case. */
  private[phoebe] def opensStore: Boolean =
    harvesting && settings.mode.atMost(limit).rank >= Mode.Advise.rank

  def registered(appId: String): Unit = if (harvesting) {
    companion.start(
      Companion.Identity(
        appId = appId,
        attempt = sparkContext.applicationAttemptId.getOrElse(""),
        appName = sparkContext.appName,
        user = sparkContext.sparkUser,
        slots = FailSafe("slots", 1)(sparkContext.defaultParallelism),
        startedAtMs = sparkContext.startTime
      )
    )
    if (opensStore) {
      FailSafe.run("open the checkpoint store")(CheckpointRuntime.start(this))
    }
  }

  def shutdown(): Unit = {
    PhoebeRuntime.current.compareAndSet(this, null)
    if (harvesting) {
      FailSafe.run("drain")(drain())
    }
    slot.get() match {
      case checkpoints: CheckpointRuntime =>
        FailSafe.run("close the checkpoint store")(checkpoints.close())
      case _ =>
    }
    if (harvesting) {
      companion.close(PhoebeRuntime.CloseMs)
    }
  }

  /** Waits for the bus's last events; it would deliver them in its own stop() anyway. */
  private def drain(): Unit =
    try SparkInternals.drainListeners(sparkContext, PhoebeRuntime.DrainMs)
    catch { case _: java.util.concurrent.TimeoutException => count("drain_timeout") }
}

object PhoebeRuntime {

  private val DrainMs = TimeUnit.SECONDS.toMillis(5)
  private val CloseMs = TimeUnit.SECONDS.toMillis(12)

  val current = new AtomicReference[PhoebeRuntime]()

  /** For `phoebe_spark.status`: what the plugin is doing, as JSON; "" when it is not there. */
  def statusJson: String = active.fold("") { r =>
    Json.line(
      "mode" -> r.settings.mode.atMost(r.limit).name,
      "limit_reason" -> r.limitReason.map(_.message),
      "home" -> PhoebeSettings.plain(r.settings.home),
      "checkpoint_dir" -> PhoebeSettings.plain(r.settings.checkpointDir),
      "companion" -> (if (r.harvesting) r.companion.state else "off"),
      "model_version" -> r.companion.modelVersion,
      "long_shapes" -> r.companion.longShapes.size,
      "planning" -> r.planning.summary,
      "events_dropped" -> r.companion.queue.dropped,
      "counts" -> r.counts
    )
  }

  /** The running application's; None on executors, when the plugin is absent, or turned itself off. */
  def active: Option[PhoebeRuntime] = Option(current.get())
}
