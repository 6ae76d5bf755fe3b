package phoebe.harvest

import org.scalatest.funsuite.AnyFunSuite

import org.apache.spark.scheduler.{SparkListenerApplicationEnd, SparkListenerEvent}
import org.apache.spark.sql.execution.SparkPlanInfo
import org.apache.spark.sql.execution.metric.{SQLMetricInfo, SQLShuffleWriteMetricsReporter}
import org.apache.spark.sql.execution.ui._

import phoebe.testing.LocalContext

class PlanVersionsSuite extends AnyFunSuite {
  private val written = LocalContext.using() { sc =>
    SQLShuffleWriteMetricsReporter
      .createShuffleWriteMetrics(sc)(SQLShuffleWriteMetricsReporter.SHUFFLE_BYTES_WRITTEN)
      .name
      .get
  }

  private def node(name: String, children: SparkPlanInfo*)(shuffle: Option[Long] = None) =
    new SparkPlanInfo(
      name,
      name,
      children,
      Map.empty,
      shuffle.map(id => new SQLMetricInfo(written, id, "size")).toSeq
    )

  private def exchange(id: Long) = node("Exchange")(Some(id))
  private def stage(id: Long) = node("ShuffleQueryStage", exchange(id))()
  private def version(execution: Long, children: SparkPlanInfo*) =
    SparkListenerSQLAdaptiveExecutionUpdate(execution, "", node("Union", children: _*)())
  private def end(execution: Long): SparkListenerEvent =
    SparkListenerSQLExecutionEnd(execution, 1L, None)

  test("of versions that show the same shuffles the last one is told, at the execution's end") {
    val versions = new PlanVersions
    val told = Seq(
      version(1, stage(10), exchange(11)),
      version(1, stage(10), stage(12)),
      version(1, stage(10), stage(12), stage(13))
    )
    assert(told.flatMap(versions(_)) == Nil)
    assert(versions(end(1)) == Seq(told.last, end(1)))
  }

  test("a version with a shuffle that ran, and that the next one has dropped, is told") {
    val versions = new PlanVersions
    val ran = version(1, stage(10), stage(11))
    val dropped = version(1, stage(10))
    assert(versions(ran) == Nil)
    assert(versions(dropped) == Seq(ran))
    assert(versions(end(1)) == Seq(dropped, end(1)))
  }

  test("executions are told apart, and other events pass") {
    val versions = new PlanVersions
    val other = SparkListenerApplicationEnd(1L)
    val (one, two) = (version(1, stage(10)), version(2, stage(20)))
    assert((versions(one), versions(two), versions(other)) == ((Nil, Nil, Seq(other))))
    assert(versions(end(2)) == Seq(two, end(2)))
    assert(versions.rest() == Seq(one))
    assert(versions.rest() == Nil)
  }

  test("nothing is held for long, however often it is replaced") {
    var now = 0L
    val versions = new PlanVersions(() => now)
    versions(version(1, stage(10)))
    now += 4000000000L
    val last = version(1, stage(10), stage(11))
    versions(last)
    assert(versions.due() == Nil)
    now += 2000000000L
    assert(versions.due() == Seq(last))
    assert(versions(end(1)) == Seq(end(1)))
  }

  test("plans deeper than a thread's stack are compared") {
    def deep(bottom: SparkPlanInfo) =
      (1 to 200000).foldLeft(bottom)((below, _) => node("Project", below)())
    val versions = new PlanVersions
    val told = version(1, deep(stage(10)))
    assert(versions(told) == Nil)
    assert(versions(version(1, deep(exchange(11)))) == Seq(told))
  }
}
