package org.apache.spark.sql.execution.phoebe

import java.lang.management.ManagementFactory
import java.util.{LinkedHashMap, Map => JavaMap}

import scala.jdk.CollectionConverters._

/**
 * What the planner hook has cost: wall time on Spark's planning threads, summed over all passes of an
 * execution (first plans, re-plans, subqueries; waiting for advice and for the store included).
 * Cheap enough to be always on; the last executions are kept. Processor time is beside it: on a busy
 * driver most of a pass's wall time may be spent waiting for a core.
 */
private[phoebe] final class PlanningTimes {
  import PlanningTimes._

  private val recent = new LinkedHashMap[Long, Times]() {
    override protected def removeEldestEntry(eldest: JavaMap.Entry[Long, Times]): Boolean =
      size > Kept
  }

  /** One pass of the hook. */
  def pass(executionId: Long, nanos: Long, cpuNanos: Long): Unit = change(executionId) { times =>
    times.nanos += nanos
    times.cpuNanos += cpuNanos
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
          "cpu_ms" -> last.cpuNanos / 1e6,
          "advice_ms" -> last.adviceNanos / 1e6,
          "passes" -> last.passes,
          "boundaries" -> last.boundaries
        )
      )
    }
  }
}

private[phoebe] object PlanningTimes {
  private val threads = ManagementFactory.getThreadMXBean

  /** Of the calling thread; 0 where the JVM does not say. */
  def cpuNanos(): Long =
    if (threads.isCurrentThreadCpuTimeSupported) threads.getCurrentThreadCpuTime else 0L

  private val Kept = 1000

  private final class Times(val executionId: Long) {
    var nanos = 0L
    var cpuNanos = 0L
    var adviceNanos = 0L
    var passes = 0
    var boundaries = 0
  }
}
