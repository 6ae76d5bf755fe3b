package phoebe.harvest

import java.io.StringWriter
import java.util.{LinkedHashMap, Map => JMap, Properties}

import scala.collection.mutable

import com.fasterxml.jackson.core.JsonGenerator

import org.apache.spark.executor.TaskMetrics
import org.apache.spark.scheduler.{phoebe => _, _}
import org.apache.spark.sql.execution.{SparkPlanInfo, SQLExecution}
import org.apache.spark.sql.execution.ui._
import org.apache.spark.sql.execution.phoebe.compat.SparkInternals
import phoebe.{JsonTree, Reason}
import phoebe.settings.LocalProperties

/**
 * Writes Spark's events as lines of JSON (docs/protocol.md, "Events"): the names and the shape of
 * Spark's own event log, so that one transformation reads both, but only the fields that harvest
 * reads. What is zero, empty or false is left out.
 *
 * For the writer thread alone: it remembers which accumulators of a running stage it has told of.
 */
final class EventLines {
  import EventLines._

  private val json = JsonTree.factory
  private val told =
    new LinkedHashMap[(Int, Int), mutable.LongMap[Unit]](16, 0.75f, true) {
      override def removeEldestEntry(
          eldest: JMap.Entry[(Int, Int), mutable.LongMap[Unit]]
      ): Boolean = size > RememberedStages
    }

  /** The event's line; throws `IllegalArgumentException` for one that harvest does not read. */
  def apply(event: SparkListenerEvent): String = {
    val text = new StringWriter(512)
    implicit val g: JsonGenerator = json.createGenerator(text)
    g.writeStartObject()
    event match {
      case e: SparkListenerTaskEnd => taskEnd(e)
      case e: SparkListenerStageSubmitted =>
        named("SparkListenerStageSubmitted")
        g.writeFieldName("Stage Info")
        stage(e.stageInfo)
        properties(e.properties)
      case e: SparkListenerStageCompleted =>
        named("SparkListenerStageCompleted")
        g.writeFieldName("Stage Info")
        stage(e.stageInfo)
        told.remove((e.stageInfo.stageId, e.stageInfo.attemptNumber()))
      case e: SparkListenerJobStart => jobStart(e)
      case e: SparkListenerJobEnd =>
        named("SparkListenerJobEnd")
        g.writeNumberField("Job ID", e.jobId)
        g.writeNumberField("Completion Time", e.time)
        g.writeObjectFieldStart("Job Result")
        g.writeStringField("Result", SparkInternals.formattedClass(e.jobResult))
        g.writeEndObject()
      case e: SparkListenerSQLExecutionStart =>
        named(s"${Sql}SQLExecutionStart")
        g.writeNumberField("executionId", e.executionId)
        e.rootExecutionId.foreach(g.writeNumberField("rootExecutionId", _))
        g.writeStringField("description", start(e.description))
        g.writeNumberField("time", e.time)
        g.writeFieldName("sparkPlanInfo")
        plan(e.sparkPlanInfo)
      case e: SparkListenerSQLAdaptiveExecutionUpdate =>
        named(s"${Sql}SQLAdaptiveExecutionUpdate")
        g.writeNumberField("executionId", e.executionId)
        g.writeFieldName("sparkPlanInfo")
        plan(e.sparkPlanInfo)
      case e: SparkListenerSQLExecutionEnd =>
        named(s"${Sql}SQLExecutionEnd")
        g.writeNumberField("executionId", e.executionId)
        g.writeNumberField("time", e.time)
        e.errorMessage.filter(_.nonEmpty).foreach(g.writeStringField("errorMessage", _))
      case e: SparkListenerExecutorAdded =>
        named("SparkListenerExecutorAdded")
        g.writeNumberField("Timestamp", e.time)
        g.writeStringField("Executor ID", e.executorId)
        g.writeObjectFieldStart("Executor Info")
        g.writeStringField("Host", e.executorInfo.executorHost)
        g.writeNumberField("Total Cores", e.executorInfo.totalCores)
        g.writeEndObject()
      case e: SparkListenerExecutorRemoved =>
        named("SparkListenerExecutorRemoved")
        g.writeNumberField("Timestamp", e.time)
        g.writeStringField("Executor ID", e.executorId)
        g.writeStringField("Removed Reason", start(e.reason))
      case e: SparkListenerApplicationStart =>
        named("SparkListenerApplicationStart")
        g.writeStringField("App Name", e.appName)
        e.appId.foreach(g.writeStringField("App ID", _))
        g.writeNumberField("Timestamp", e.time)
        g.writeStringField("User", e.sparkUser)
        e.appAttemptId.foreach(g.writeStringField("App Attempt ID", _))
      case e: SparkListenerApplicationEnd =>
        named("SparkListenerApplicationEnd")
        g.writeNumberField("Timestamp", e.time)
      case e => throw new IllegalArgumentException(s"harvest does not read ${e.getClass.getName}")
    }
    g.writeEndObject()
    g.close()
    text.toString
  }

  private def named(event: String)(implicit g: JsonGenerator): Unit =
    g.writeStringField("Event", event)

  private def jobStart(e: SparkListenerJobStart)(implicit g: JsonGenerator): Unit = {
    named("SparkListenerJobStart")
    g.writeNumberField("Job ID", e.jobId)
    g.writeNumberField("Submission Time", e.time)
    g.writeArrayFieldStart("Stage Infos")
    e.stageInfos.foreach(stage)
    g.writeEndArray()
    properties(e.properties)
  }

  private def stage(info: StageInfo)(implicit g: JsonGenerator): Unit = {
    g.writeStartObject()
    g.writeNumberField("Stage ID", info.stageId)
    number("Stage Attempt ID", info.attemptNumber())
    g.writeStringField("Stage Name", info.name)
    g.writeNumberField("Number of Tasks", info.numTasks)
    g.writeArrayFieldStart("RDD Info") // the first one is what the stage computes
    info.rddInfos.headOption.foreach { rdd =>
      g.writeStartObject()
      g.writeNumberField("RDD ID", rdd.id)
      g.writeEndObject()
    }
    g.writeEndArray()
    g.writeArrayFieldStart("Parent IDs")
    info.parentIds.foreach(g.writeNumber(_: Int))
    g.writeEndArray()
    info.submissionTime.foreach(g.writeNumberField("Submission Time", _))
    info.completionTime.foreach(g.writeNumberField("Completion Time", _))
    info.failureReason.foreach(reason => g.writeStringField("Failure Reason", start(reason)))
    g.writeEndObject()
  }

  /** The properties of a job hold the whole configuration: harvest needs these few. */
  private def properties(all: Properties)(implicit g: JsonGenerator): Unit = if (all != null) {
    g.writeObjectFieldStart("Properties")
    JobProperties.foreach { key =>
      val value = all.getProperty(key)
      if (value != null) g.writeStringField(key, value)
    }
    g.writeEndObject()
  }

  private def taskEnd(e: SparkListenerTaskEnd)(implicit g: JsonGenerator): Unit = {
    named("SparkListenerTaskEnd")
    g.writeNumberField("Stage ID", e.stageId)
    number("Stage Attempt ID", e.stageAttemptId)
    g.writeStringField("Task Type", e.taskType)
    g.writeObjectFieldStart("Task End Reason")
    g.writeStringField("Reason", SparkInternals.formattedClass(e.reason))
    g.writeEndObject()
    val info = e.taskInfo
    if (info != null) {
      g.writeObjectFieldStart("Task Info")
      number("Index", info.index)
      number("Launch Time", info.launchTime)
      number("Finish Time", info.finishTime)
      g.writeStringField("Executor ID", info.executorId)
      g.writeStringField("Host", info.host)
      if (info.failed) g.writeBooleanField("Failed", true)
      if (info.killed) g.writeBooleanField("Killed", true)
      accumulables((e.stageId, e.stageAttemptId), info)
      g.writeEndObject()
    }
    if (e.taskMetrics != null) metrics(e.taskMetrics)
  }

  /**
   * Which operators' metrics a stage updates ties it to its plan: each is told of once. Spark puts
   * the same into the stage's completion, as a map that another thread may still change.
   */
  private def accumulables(stage: (Int, Int), info: TaskInfo)(implicit g: JsonGenerator): Unit = {
    val known = told.computeIfAbsent(stage, _ => mutable.LongMap.empty[Unit])
    var open = false
    info.accumulables.foreach { a =>
      if (SparkInternals.isSqlMetric(a)) {
        if (!known.contains(a.id)) {
          known.update(a.id, ())
          if (!open) g.writeArrayFieldStart("Accumulables")
          open = true
          g.writeStartObject()
          g.writeNumberField("ID", a.id)
          g.writeStringField("Metadata", "sql")
          g.writeEndObject()
        }
      }
    }
    if (open) g.writeEndArray()
  }

  private def metrics(m: TaskMetrics)(implicit g: JsonGenerator): Unit = {
    g.writeObjectFieldStart("Task Metrics")
    number("Executor Run Time", m.executorRunTime)
    number("Executor CPU Time", m.executorCpuTime)
    number("JVM GC Time", m.jvmGCTime)
    number("Memory Bytes Spilled", m.memoryBytesSpilled)
    number("Disk Bytes Spilled", m.diskBytesSpilled)
    number("Peak Execution Memory", m.peakExecutionMemory)
    val read = m.shuffleReadMetrics
    if (read.recordsRead != 0 || read.totalBytesRead != 0) {
      g.writeObjectFieldStart("Shuffle Read Metrics")
      number("Remote Bytes Read", read.remoteBytesRead)
      number("Local Bytes Read", read.localBytesRead)
      number("Total Records Read", read.recordsRead)
      g.writeEndObject()
    }
    val (write, in, out) = (m.shuffleWriteMetrics, m.inputMetrics, m.outputMetrics)
    pair("Shuffle Write Metrics")("Shuffle Bytes Written", write.bytesWritten)(
      "Shuffle Records Written",
      write.recordsWritten
    )
    pair("Input Metrics")("Bytes Read", in.bytesRead)("Records Read", in.recordsRead)
    pair("Output Metrics")("Bytes Written", out.bytesWritten)("Records Written", out.recordsWritten)
    g.writeEndObject()
  }

  /** An object of two numbers, left out where both are zero. */
  private def pair(
      section: String
  )(first: String, a: Long)(second: String, b: Long)(implicit g: JsonGenerator): Unit =
    if (a != 0 || b != 0) {
      g.writeObjectFieldStart(section)
      number(first, a)
      number(second, b)
      g.writeEndObject()
    }

  private def plan(root: SparkPlanInfo)(implicit g: JsonGenerator): Unit =
    JsonTree.write[SparkPlanInfo](root, _.children) { node =>
      g.writeStringField("nodeName", node.nodeName)
      g.writeStringField("simpleString", node.simpleString)
    }(about)

  private def about(node: SparkPlanInfo)(implicit g: JsonGenerator): Unit = {
    if (node.metadata.nonEmpty) {
      g.writeObjectFieldStart("metadata")
      node.metadata.foreach { case (key, value) => g.writeStringField(key, value) }
      g.writeEndObject()
    }
    if (node.metrics.nonEmpty) {
      g.writeArrayFieldStart("metrics")
      node.metrics.foreach { metric =>
        g.writeStartObject()
        g.writeStringField("name", metric.name)
        g.writeNumberField("accumulatorId", metric.accumulatorId)
        g.writeEndObject()
      }
      g.writeEndArray()
    }
  }

  private def number(name: String, value: Long)(implicit g: JsonGenerator): Unit =
    if (value != 0) g.writeNumberField(name, value)
}

object EventLines {
  private val Sql = "org.apache.spark.sql.execution.ui.SparkListener"
  private val RememberedStages = 10000

  private val JobProperties = Seq(
    SQLExecution.EXECUTION_ID_KEY,
    SQLExecution.EXECUTION_ROOT_ID_KEY,
    "sql.streaming.queryId",
    "streaming.sql.batchId",
    "spark.scheduler.pool",
    LocalProperties.Internal
  )

  /** Stack traces and SQL text: of what is longer, harvest keeps the first words or nothing. */
  private val LongestText = 2000

  private def start(text: String): String =
    if (text == null) "" else if (text.length <= LongestText) text else text.take(LongestText)
}
