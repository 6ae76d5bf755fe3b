package phoebe.planner

import java.util.{LinkedHashMap, Map => JavaMap}

import scala.jdk.CollectionConverters._

/**
 * What the planner hook has cost: wall time on Spark's planning threads, summed over all passes of an
 * execution (first plans, re-plans, subqueries; waiting for advice and for the store included).
 * Cheap enough to be always on; the last executions are kept. A thread's processor time would say
 * more on a busy driver, but asking for it is a system call, where a kernel takes the core away that
 * the planning before it has used up: most passes then wait some milliseconds for it.
 */
private[phoebe] final class PlanningTimes {
  import PlanningTimes._

  private val recent = new LinkedHashMap[Long, Times]() {
    override protected def removeEldestEntry(eldest: JavaMap.Entry[Long, Times]): Boolean =
      size > Kept
  }

  /** One pass of the hook. */
  def pass(executionId: Long, nanos: Long): Unit = change(executionId) { times =>
    times.nanos += nanos
    times.passes += 1
  }

  /** The part of a pass in which advice was asked and waited for. */
  def advice(executionId: Long, nanos: Long): Unit = change(executionId)(_.adviceNanos += nanos)

  /** A fragment's shuffles were looked at for the first time. */
  def boundaries(executionId: Long, count: Int): Unit = change(executionId)(_.boundaries += count)

  private def change(executionId: Long)(update: Times => Unit): Unit = recent.synchronized {
    update(recent.computeIfAbsent(executionId, new Times(_)))
  }

  /** Over the executions kept: how many, and the median, 99th percentile and most of their sums. */
  def summary: Map[String, Any] = recent.synchronized {
    val ms = recent.values.asScala.map(_.nanos / 1e6).toArray.sorted
    def at(share: Double) = ms(math.min(ms.length - 1, math.ceil(share * ms.length).toInt - 1))
    if (ms.isEmpty) Map("executions" -> 0)
    else {
      val last = recent.values.asScala.last
      Map(
        "executions" -> ms.length,
        "p50_ms" -> at(0.5),
        "p99_ms" -> at(0.99),
        "max_ms" -> ms.last,
        "last" -> Map[String, Any](
          "execution_id" -> last.executionId,
          "ms" -> last.nanos / 1e6,
          "advice_ms" -> last.adviceNanos / 1e6,
          "passes" -> last.passes,
          "boundaries" -> last.boundaries
        )
      )
    }
  }
}

private[phoebe] object PlanningTimes {
  private val Kept = 1000

  private final class Times(val executionId: Long) {
    var nanos = 0L
    var adviceNanos = 0L
    var passes = 0
    var boundaries = 0
  }
}
