package phoebe.harvest

import scala.collection.mutable

import org.apache.spark.scheduler.SparkListenerEvent
import org.apache.spark.sql.execution.SparkPlanInfo
import org.apache.spark.sql.execution.ui.{
  SparkListenerSQLAdaptiveExecutionUpdate,
  SparkListenerSQLExecutionEnd
}

/**
 * Passes over the versions of adaptive plans that tell nothing new. Adaptive execution tells of each
 * version in whole, dozens of them for a deep query, and harvest reads the last one, and of those
 * before it only what explains a shuffle that ran. So a version is held until the next one comes, and
 * is then told only if a shuffle ran in it that the next one does not show any more.
 *
 * For the writer thread alone.
 */
final private[phoebe] class PlanVersions(nanoTime: () => Long = () => System.nanoTime()) {
  import PlanVersions._

  private val held = mutable.LinkedHashMap.empty[Long, Held]

  /** What is to be told where `event` would be, in order. */
  def apply(event: SparkListenerEvent): Seq[SparkListenerEvent] = event match {
    case update: SparkListenerSQLAdaptiveExecutionUpdate =>
      val earlier = held.get(update.executionId)
      val since = earlier.fold(nanoTime())(_.sinceNs)
      held(update.executionId) = Held(update, since)
      earlier.map(_.update).filterNot(saysAllOf(update.sparkPlanInfo, _)).toSeq
    case end: SparkListenerSQLExecutionEnd =>
      held.remove(end.executionId).map(_.update).toSeq :+ end
    case other => Seq(other)
  }

  /** What has been held long enough: should the driver be killed, little is lost. */
  def due(): Seq[SparkListenerEvent] =
    if (held.isEmpty) Nil
    else {
      val now = nanoTime()
      // In the order in which they came to be held: replacing one leaves it where it is.
      val old = held.iterator.takeWhile { case (_, one) => now - one.sinceNs > LongestNs }
      old.map(_._1).toSeq.flatMap(held.remove).map(_.update)
    }

  /** Everything that is held; the stream is over. */
  def rest(): Seq[SparkListenerEvent] = {
    val all = held.values.map(_.update).toSeq
    held.clear()
    all
  }
}

private[phoebe] object PlanVersions {
  private val LongestNs = 5000000000L

  /** @param sinceNs when the first of the versions came that this one stands for */
  private final case class Held(update: SparkListenerSQLAdaptiveExecutionUpdate, sinceNs: Long)

  private def saysAllOf(
      plan: SparkPlanInfo,
      earlier: SparkListenerSQLAdaptiveExecutionUpdate
  ): Boolean = {
    val ran = mutable.LongMap.empty[Unit]
    shuffles(earlier.sparkPlanInfo, stagesOnly = true, ran)
    ran.isEmpty || {
      val shown = mutable.LongMap.empty[Unit]
      shuffles(plan, stagesOnly = false, shown)
      ran.keysIterator.forall(shown.contains)
    }
  }

  /** Adds the accumulators by which shuffles are known: of all, or of those in query stages. */
  private def shuffles(
      plan: SparkPlanInfo,
      stagesOnly: Boolean,
      found: mutable.LongMap[Unit]
  ): Unit = {
    // No recursion: plans may be deeper than a thread's stack.
    val todo = mutable.Stack((plan, false))
    while (todo.nonEmpty) {
      val (node, inStage) = todo.pop()
      val inside = inStage || node.nodeName.endsWith("QueryStage")
      if (inside || !stagesOnly) {
        node.metrics.foreach { metric =>
          if (metric.name == WrittenBytes) found.update(metric.accumulatorId, ())
        }
      }
      node.children.foreach(child => todo.push((child, inside)))
    }
  }

  /** The metric's name as the plan shows it. */
  private val WrittenBytes = "shuffle bytes written"
}
