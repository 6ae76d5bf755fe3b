package phoebe.harvest

import java.util.{Collections, LinkedHashMap, Map => JMap, Properties, Set => JSet}

import org.apache.spark.scheduler.{phoebe => _, _}
import org.apache.spark.sql.execution.SQLExecution
import org.apache.spark.sql.execution.ui._
import phoebe.FailSafe
import phoebe.settings.{LocalProperties, Mode}

/**
 * Puts the events that harvest reads into the queue, on the bus's thread, and does nothing else
 * there: no serialising, no waiting. What is long and not read (plan texts) is let go at once, so
 * that events which wait stay small.
 *
 * Task starts, block updates, heartbeats and the like are left out. Our own jobs, and queries of a
 * session with `spark.phoebe.mode=off`, are left out too.
 */
final private[phoebe] class HarvestListener(queue: EventQueue) extends SparkListener {
  import HarvestListener._

  private val mutedExecutions = recent[Long]()
  private val mutedStages = recent[Int]()

  override def onApplicationStart(e: SparkListenerApplicationStart): Unit = put(e)
  override def onApplicationEnd(e: SparkListenerApplicationEnd): Unit = put(e)
  override def onExecutorAdded(e: SparkListenerExecutorAdded): Unit = put(e)
  override def onExecutorRemoved(e: SparkListenerExecutorRemoved): Unit = put(e)
  override def onJobEnd(e: SparkListenerJobEnd): Unit = put(e)

  override def onJobStart(e: SparkListenerJobStart): Unit = FailSafe.run("listener") {
    if (isMuted(e.properties)) e.stageIds.foreach(mutedStages.add(_))
    else queue.event(e)
  }

  override def onStageSubmitted(e: SparkListenerStageSubmitted): Unit = FailSafe.run("listener") {
    if (!mutedStages.contains(e.stageInfo.stageId)) queue.event(e)
  }

  override def onStageCompleted(e: SparkListenerStageCompleted): Unit = FailSafe.run("listener") {
    if (!mutedStages.contains(e.stageInfo.stageId)) queue.event(e)
  }

  override def onTaskEnd(e: SparkListenerTaskEnd): Unit = FailSafe.run("listener") {
    if (!mutedStages.contains(e.stageId)) queue.event(e)
  }

  override def onOtherEvent(e: SparkListenerEvent): Unit = FailSafe.run("listener") {
    e match {
      case s: SparkListenerSQLExecutionStart =>
        if (s.modifiedConfigs.get("spark.phoebe.mode").contains(Mode.Off.name)) {
          mutedExecutions.add(s.executionId)
        } else {
          queue.event(
            s.copy(physicalPlanDescription = "", details = "", modifiedConfigs = Map.empty)
          )
        }
      case u: SparkListenerSQLAdaptiveExecutionUpdate =>
        if (!mutedExecutions.contains(u.executionId)) {
          queue.event(u.copy(physicalPlanDescription = ""))
        }
      case end: SparkListenerSQLExecutionEnd =>
        // A copy, because the event holds the query with all of its plans.
        if (!mutedExecutions.contains(end.executionId)) queue.event(end.copy())
      case _ =>
    }
  }

  private def put(e: SparkListenerEvent): Unit = FailSafe.run("listener")(queue.event(e))

  private def isMuted(properties: Properties): Boolean = properties != null && {
    val execution = properties.getProperty(SQLExecution.EXECUTION_ID_KEY)
    properties.getProperty(LocalProperties.Internal) == "true" ||
    (execution != null && mutedExecutions.contains(execution.toLong))
  }
}

private[phoebe] object HarvestListener {
  private val Remembered = 10000

  /** A set that forgets its oldest members: long-lived applications must not grow. */
  private def recent[T](): JSet[T] =
    Collections.newSetFromMap(new LinkedHashMap[T, java.lang.Boolean]() {
      override def removeEldestEntry(eldest: JMap.Entry[T, java.lang.Boolean]): Boolean =
        size > Remembered
    })
}
