// In Spark's package for SparkContext.submitMapStage (private[spark]).
package org.apache.spark.sql.execution.phoebe.exchange

import scala.concurrent.Future

import org.apache.spark.{MapOutputStatistics, ShuffleDependency}
import org.apache.spark.rdd.{DeterministicLevel, RDD}
import org.apache.spark.serializer.Serializer
import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.plans.logical.Statistics
import org.apache.spark.sql.catalyst.plans.physical.Partitioning
import org.apache.spark.sql.execution.{
  ShufflePartitionSpec,
  SparkPlan,
  SQLExecution,
  UnsafeRowSerializer
}
import org.apache.spark.sql.execution.exchange.{
  ShuffleExchangeExec,
  ShuffleExchangeLike,
  ShuffleOrigin
}
import org.apache.spark.sql.execution.metric.{
  SQLMetric,
  SQLMetrics,
  SQLShuffleReadMetricsReporter,
  SQLShuffleWriteMetricsReporter
}
import org.apache.spark.sql.execution.phoebe.compat.SparkVersion
import org.apache.spark.sql.execution.phoebe.driver.CheckpointAttempt
import org.apache.spark.sql.execution.phoebe.executor.CheckpointSource
import phoebe.{FailSafe, Reason}
import phoebe.driver.CheckpointRuntime

/** Metrics of our exchanges, in addition to Spark's own shuffle metrics. */
private[phoebe] object CheckpointMetrics {
  val CopyTime = "checkpoint copy time"
  val BytesCopied = "checkpoint bytes copied"
  val FreedBytes = "checkpoint freed bytes"

  /** A checkpoint's own metrics, without the node, which refers to the plan. */
  def of(exchange: CheckpointExchangeExec): Map[String, SQLMetric] =
    Seq(CopyTime, BytesCopied, FreedBytes).map(name => name -> exchange.metrics(name)).toMap
}

/** The common part of our exchanges: name, metrics and metrics reporters of Spark's exchange. */
private[phoebe] trait PhoebeExchange extends ShuffleExchangeLike {
  def fingerprint: String
  def executionId: Long

  protected lazy val writeMetrics: Map[String, SQLMetric] =
    SQLShuffleWriteMetricsReporter.createShuffleWriteMetrics(sparkContext)
  protected lazy val readMetrics: Map[String, SQLMetric] =
    SQLShuffleReadMetricsReporter.createShuffleReadMetrics(sparkContext)

  protected def extraMetrics: Map[String, SQLMetric]

  override lazy val metrics: Map[String, SQLMetric] = Map(
    "dataSize" -> SQLMetrics.createSizeMetric(sparkContext, "data size"),
    "numPartitions" -> SQLMetrics.createMetric(sparkContext, "number of partitions")
  ) ++ readMetrics ++ writeMetrics ++ extraMetrics

  /** User interfaces and profilers know shuffles by this name. */
  override def nodeName: String = "Exchange"

  /**
   * Canonicalizes to Spark's own exchange, so Spark reuses exchanges exactly as without the plugin, even
   * if their fingerprints differ (by an unneeded pruning filter, for example) or only one was replaced.
   */
  override protected def doCanonicalize(): SparkPlan =
    ShuffleExchangeExec(outputPartitioning, child, shuffleOrigin, advisoryPartitionSize)
      .canonicalized

  /** Leaves out fingerprint and execution id, so that the plan reads like Spark's own exchange. */
  override def stringArgs: Iterator[Any] =
    Iterator[Any](outputPartitioning, shuffleOrigin) ++ advisoryPartitionSize ++ Iterator(
      s"[plan_id=$id]"
    )

  def shuffleDependency: ShuffleDependency[Int, InternalRow, InternalRow]

  override def numPartitions: Int = shuffleDependency.partitioner.numPartitions

  override def shuffleId: Int = shuffleDependency.shuffleId

  protected def postDriverMetric(names: String*): Unit =
    SQLMetrics.postDriverMetricUpdates(
      sparkContext,
      sparkContext.getLocalProperty(SQLExecution.EXECUTION_ID_KEY),
      names.map(metrics)
    )

  /** The place of this shuffle's checkpoint, for tasks. */
  protected def source: CheckpointSource

  override def getShuffleRDD(partitionSpecs: Array[ShufflePartitionSpec]): RDD[InternalRow] =
    new CheckpointShuffleRDD(shuffleDependency, readMetrics, partitionSpecs, source)

  protected override def doExecute(): RDD[InternalRow] =
    new CheckpointShuffleRDD(shuffleDependency, readMetrics, source)
}

/**
 * A shuffle whose map output also becomes a durable checkpoint. It is uploaded in the background. After
 * the commit its local files are freed, with those upstream that nothing else reads
 * ([[CheckpointAttempt]]).
 *
 * Adaptive execution sees the same statistics, partitioning and metrics as of a
 * [[ShuffleExchangeExec]]. If the checkpoint cannot be written or committed, this is an ordinary
 * shuffle.
 */
case class CheckpointExchangeExec(
    override val outputPartitioning: Partitioning,
    child: SparkPlan,
    shuffleOrigin: ShuffleOrigin,
    advisoryPartitionSize: Option[Long],
    fingerprint: String,
    executionId: Long
)(
    @transient val runtime: CheckpointRuntime
) extends PhoebeExchange {

  override protected def otherCopyArgs: Seq[AnyRef] = runtime :: Nil

  override protected lazy val extraMetrics: Map[String, SQLMetric] = Map(
    CheckpointMetrics.CopyTime -> SQLMetrics.createTimingMetric(
      sparkContext,
      CheckpointMetrics.CopyTime
    ),
    CheckpointMetrics.BytesCopied -> SQLMetrics.createSizeMetric(
      sparkContext,
      CheckpointMetrics.BytesCopied
    ),
    CheckpointMetrics.FreedBytes -> SQLMetrics.createSizeMetric(
      sparkContext,
      CheckpointMetrics.FreedBytes
    )
  )

  private lazy val serializer: Serializer =
    new UnsafeRowSerializer(child.output.size, longMetric("dataSize"))

  @transient lazy val inputRDD: RDD[InternalRow] = child.execute()

  /** Without input partitions no map stage is submitted, so there is nothing to checkpoint. */
  private def hasNoStage = inputRDD.getNumPartitions == 0

  /** This node's attempt at a checkpoint: its place in the store, and its commit. */
  @transient private lazy val attempt: CheckpointAttempt =
    new CheckpointAttempt(this, runtime, runtime.inputs(executionId, fingerprint, child))

  @transient override protected lazy val source: CheckpointSource =
    CheckpointSource(attempt.place, runtime.hadoopConf, restored = false)

  @transient override lazy val shuffleDependency: ShuffleDependency[Int, InternalRow, InternalRow] =
    SparkVersion.withScope(sparkContext, this) {
      val plain = ShuffleExchangeExec.prepareShuffleDependency(
        inputRDD,
        child.output,
        outputPartitioning,
        serializer,
        writeMetrics
      )
      val dependency = if (hasNoStage) plain else checkpointed(plain)
      metrics("numPartitions").set(dependency.partitioner.numPartitions)
      postDriverMetric("numPartitions")
      dependency
    }

  /**
   * The same dependency with another write processor. The shuffle id of the first one is never used, and
   * is forgotten with it.
   */
  private def checkpointed(
      plain: ShuffleDependency[Int, InternalRow, InternalRow]
  ): ShuffleDependency[Int, InternalRow, InternalRow] = {
    val dependency =
      if (plain.rdd.outputDeterministicLevel == DeterministicLevel.INDETERMINATE) {
        attempt.abandon(CheckpointExchangeExec.Indeterminate)
        plain
      } else SparkVersion.withWriter(
        plain,
        new CheckpointWriteProcessor(source, writeMetrics, longMetric("dataSize"))
      )
    attempt.begin(dependency)
    runtime.begun(dependency.shuffleId, attempt, fingerprint)
    dependency
  }

  @transient override lazy val mapOutputStatisticsFuture: Future[MapOutputStatistics] =
    if (hasNoStage) Future.successful(null)
    else {
      val action = sparkContext.submitMapStage(shuffleDependency)
      futureAction.set(Some(action))
      // The outputs are available at once; the query does not wait for the checkpoint.
      action.onComplete { result =>
        FailSafe.run("after a map stage") {
          if (result.isSuccess) attempt.stageIsOver() else attempt.discard()
        }
      }(runtime.pool)
      action
    }

  override def numMappers: Int = shuffleDependency.rdd.getNumPartitions

  override def runtimeStatistics: Statistics = {
    val dataSize = metrics("dataSize").value
    val rowCount = metrics(SQLShuffleWriteMetricsReporter.SHUFFLE_RECORDS_WRITTEN).value
    Statistics(dataSize, Some(rowCount))
  }

  override protected def withNewChildInternal(newChild: SparkPlan): CheckpointExchangeExec =
    copy(child = newChild)(runtime)
}

object CheckpointExchangeExec {

  /** A retry may give other rows, so Spark must be able to roll back all readers of the first ones. */
  private val Indeterminate = Reason(
    "indeterminate",
    "the rows of this boundary can differ from one attempt of its stage to the next"
  )
}
