package org.apache.spark.sql.execution.phoebe.harvest

import java.util.Properties

import scala.jdk.CollectionConverters._

import com.fasterxml.jackson.databind.JsonNode
import org.scalatest.funsuite.AnyFunSuite

import org.apache.spark.{ExceptionFailure, SparkConf, Success, TaskState}
import org.apache.spark.executor.{ExecutorMetrics, TaskMetrics}
import org.apache.spark.scheduler.{phoebe => _, _}
import org.apache.spark.sql.execution.SparkPlanInfo
import org.apache.spark.sql.execution.metric.SQLMetricInfo
import org.apache.spark.sql.execution.ui._
import org.apache.spark.storage.{RDDInfo, StorageLevel}
import org.apache.spark.util.{JsonProtocol, JsonProtocolOptions}
import phoebe.Json
import phoebe.harvest.EventLines

class EventLinesSuite extends AnyFunSuite {
  private val options = new JsonProtocolOptions(new SparkConf(false))

  /** Where `slim` says something else than `whole`. */
  private def conflicts(slim: JsonNode, whole: JsonNode, path: String = ""): Seq[String] =
    if (whole == null) Seq(path)
    else if (slim.isObject) {
      slim.properties().asScala.toSeq.flatMap { e =>
        conflicts(e.getValue, whole.get(e.getKey), s"$path/${e.getKey}")
      }
    } else if (slim.isArray && path.endsWith("/RDD Info")) {
      conflicts(slim.get(0), whole.get(0), s"$path[0]")
    } else if (slim.isArray && path.endsWith("/Accumulables")) {
      val byId = whole.elements().asScala.map(a => a.get("ID") -> a).toMap
      slim.elements().asScala.toSeq.flatMap(a => conflicts(a, byId.getOrElse(a.get("ID"), null)))
    } else if (slim.isArray) {
      if (slim.size != whole.size) Seq(path)
      else (0 until slim.size).flatMap(i => conflicts(slim.get(i), whole.get(i), s"$path[$i]"))
    } else if (slim == whole) Nil
    else Seq(path)

  private def check(lines: EventLines, event: SparkListenerEvent): JsonNode = {
    val slim = Json.read(lines(event))
    val whole = Json.read(JsonProtocol.sparkEventToJsonString(event, options))
    assert(conflicts(slim, whole) == Nil)
    slim
  }

  private def stage(id: Int): StageInfo = {
    val rdds = Seq(3, 2).map(n =>
      new RDDInfo(n, "rdd", 4, StorageLevel.NONE, isBarrier = false, Seq.empty)
    )
    val info = new StageInfo(id, 1, "collect at x", 4, rdds, Seq(1, 2), "", resourceProfileId = 0)
    info.submissionTime = Some(5L)
    info.completionTime = Some(9L)
    info.failureReason = Some("Job aborted: \"because\"\n\tat here")
    info
  }

  private def task(accumulables: (Long, String)*): SparkListenerTaskEnd = {
    val info = new TaskInfo(7L, 3, 0, 3, 100L, "1", "host", TaskLocality.ANY, speculative = false)
    info.markFinished(TaskState.FINISHED, 150L)
    info.setAccumulables(accumulables.map { case (id, metadata) =>
      AccumulableInfo(id, Some(s"m$id"), Some(1L), Some(2L), false, true, Option(metadata))
    })
    val metrics = TaskMetrics.empty
    metrics.setExecutorRunTime(40L)
    metrics.setPeakExecutionMemory(1L << 40)
    metrics.shuffleWriteMetrics.incBytesWritten(10L)
    metrics.inputMetrics.incRecordsRead(11L)
    SparkListenerTaskEnd(8, 1, "ShuffleMapTask", Success, info, new ExecutorMetrics, metrics)
  }

  test("events say what Spark's own log says, in the same names") {
    val lines = new EventLines
    val properties = new Properties
    properties.setProperty("spark.sql.execution.id", "12")
    properties.setProperty("spark.secret", "x")
    val leaf = new SparkPlanInfo(
      "Scan parquet t",
      "FileScan \"ü\"\u0001",
      Nil,
      Map("ReadSchema" -> "struct<a:int>"),
      Seq(new SQLMetricInfo("number of output rows", 77L, "sum"))
    )
    val plan = new SparkPlanInfo("Project", "Project [a#1]", Seq(leaf), Map.empty, Nil)
    val start = SparkListenerSQLExecutionStart(
      12L,
      Some(11L),
      "q1",
      "",
      "",
      plan,
      99L,
      Map("a" -> "b")
    )
    Seq(
      SparkListenerApplicationStart("app", Some("id"), 1L, "me", Some("2"), None, None),
      SparkListenerApplicationEnd(2L),
      SparkListenerExecutorRemoved(3L, "1", "lost"),
      SparkListenerJobStart(1, 4L, Seq(stage(8), stage(9)), properties),
      SparkListenerJobEnd(1, 5L, JobSucceeded),
      SparkListenerStageSubmitted(stage(8), properties),
      SparkListenerStageCompleted(stage(8)),
      task(5L -> "sql", 6L -> null),
      task().copy(taskMetrics = null),
      start,
      SparkListenerSQLAdaptiveExecutionUpdate(12L, "", plan),
      SparkListenerSQLExecutionEnd(12L, 100L, Some("[DIVIDE_BY_ZERO] x"))
    ).foreach(check(lines, _))
    val job = check(lines, SparkListenerJobStart(1, 4L, Seq(stage(8)), properties))
    assert(job.get("Properties").size == 1)
    assert(check(lines, start).get("modifiedConfigs") == null)
    // A second attempt is told from the first, which is what is meant where nothing is said.
    assert(check(lines, task()).get("Stage Attempt ID").asInt == 1)
  }

  test("a task that failed keeps the kind of its failure") {
    val failure = ExceptionFailure("C", "secret row", Array.empty, "", None)
    val event = check(new EventLines, task().copy(reason = failure))
    assert(event.toString.contains("ExceptionFailure"))
    assert(!event.toString.contains("secret"))
  }

  test("each accumulator of a stage is told of once, and again after the stage is over") {
    val lines = new EventLines
    def ids(event: SparkListenerTaskEnd): Seq[Long] = {
      val found = check(lines, event).path("Task Info").path("Accumulables")
      found.elements().asScala.map(_.get("ID").asLong).toSeq
    }
    assert(ids(task(1L -> "sql", 2L -> "sql", 3L -> null)) == Seq(1L, 2L))
    assert(ids(task(1L -> "sql", 4L -> "sql")) == Seq(4L))
    assert(ids(task(1L -> "sql").copy(stageId = 9)) == Seq(1L))
    lines(SparkListenerStageCompleted(stage(8)))
    assert(ids(task(1L -> "sql")) == Seq(1L))
  }

  test("what harvest does not read is refused") {
    assertThrows[IllegalArgumentException](new EventLines()(SparkListenerUnpersistRDD(1)))
  }

  test("a plan of any depth is a line, also where the thread's stack is small") {
    val leaf = new SparkPlanInfo("Scan parquet t", "FileScan", Nil, Map("Format" -> "x"), Nil)
    val plan = (1 to 20000).foldLeft(leaf) { (below, n) =>
      new SparkPlanInfo("Project", s"Project $n", Seq(below), Map.empty, Nil)
    }
    val start =
      SparkListenerSQLExecutionStart(3, Some(3), "", "", "", plan, 5, Map.empty)
    @volatile var line = ""
    val thread = new Thread(null, () => line = new EventLines()(start), "small", 64L << 10)
    thread.start()
    thread.join()
    assert("\"nodeName\":\"Project\"".r.findAllIn(line).size == 20000)
    assert(line.endsWith("}" * 2) && line.count(_ == '{') == line.count(_ == '}'))
    assert(
      line.contains("""Scan parquet t","simpleString":"FileScan","metadata":{"Format":"x"}}],"""
        .dropRight(1))
    )
  }
}
