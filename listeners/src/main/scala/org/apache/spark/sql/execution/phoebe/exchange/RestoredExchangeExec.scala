// In Spark's package for MapOutputTrackerMaster.getStatistics (private[spark]).
package org.apache.spark.sql.execution.phoebe.exchange

import scala.concurrent.Future

import org.apache.spark.{MapOutputStatistics, ShuffleDependency, SparkException}
import org.apache.spark.rdd.RDD
import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.expressions.Attribute
import org.apache.spark.sql.catalyst.plans.logical.Statistics
import org.apache.spark.sql.catalyst.plans.physical.Partitioning
import org.apache.spark.sql.execution.{
  CoalescedMapperPartitionSpec,
  CoalescedPartitionSpec,
  LeafExecNode,
  PartialMapperPartitionSpec,
  ShufflePartitionSpec,
  SparkPlan,
  UnsafeRowSerializer
}
import org.apache.spark.sql.execution.exchange.{ShuffleExchangeExec, ShuffleOrigin}
import org.apache.spark.sql.execution.metric.{SQLMetric, SQLShuffleWriteMetricsReporter}
import org.apache.spark.sql.execution.phoebe.compat.SparkVersion
import org.apache.spark.sql.execution.phoebe.executor.CheckpointSource
import phoebe.driver.CheckpointRuntime
import phoebe.fingerprint.{CarriesOriginal, Inputs}
import phoebe.store.{CommittedCheckpoint, Manifest}

/**
 * A shuffle that was written by an earlier application: its map outputs are in the checkpoint
 * store, nothing upstream of it is planned or run.
 *
 * Its files were checked when it was put into the plan ([[CheckpointVerifier]]), and each chunk is
 * verified when it is read. If it cannot be read, it is computed from the original input
 * ([[RestoredOutputs]]).
 */
case class RestoredExchangeExec(
    override val outputPartitioning: Partitioning,
    child: SparkPlan,
    shuffleOrigin: ShuffleOrigin,
    advisoryPartitionSize: Option[Long],
    fingerprint: String,
    executionId: Long
)(
    @transient val checkpoint: CommittedCheckpoint,
    @transient val inputs: Inputs,
    @transient val runtime: CheckpointRuntime
) extends PhoebeExchange {

  override protected def otherCopyArgs: Seq[AnyRef] = checkpoint :: inputs :: runtime :: Nil

  override protected lazy val extraMetrics: Map[String, SQLMetric] = Map.empty

  private def manifest: Manifest = checkpoint.manifest

  @transient override protected lazy val source: CheckpointSource =
    CheckpointSource(checkpoint.place, runtime.hadoopConf, restored = true, checkpoint.held)

  /** Its outputs are registered with the map output tracker before any task can read them. */
  @transient override lazy val shuffleDependency
      : ShuffleDependency[Int, InternalRow, InternalRow] = {
    val outputs = new RestoredOutputs(this, checkpoint, runtime)
    val place = checkpoint.place.toString
    val maps = new RestoredMapOutputRDD(sparkContext, manifest.numMaps, place, outputs)
    // As in Spark's own exchange, for outputs that are recomputed, and lost again.
    val dependency = SparkVersion.rowShuffle(
      maps,
      manifest.numPartitions,
      new UnsafeRowSerializer(child.output.size, longMetric("dataSize")),
      ShuffleExchangeExec.createShuffleWriteProcessor(writeMetrics),
      conf
    )
    outputs.begin(maps, dependency.shuffleId)
    runtime.restored(this, dependency.shuffleId, checkpoint, outputs)
    metrics("numPartitions").set(manifest.numPartitions)
    metrics("dataSize").set(manifest.dataSizeBytes)
    metrics(SQLShuffleWriteMetricsReporter.SHUFFLE_RECORDS_WRITTEN).set(manifest.rows)
    postDriverMetric(
      "numPartitions",
      "dataSize",
      SQLShuffleWriteMetricsReporter.SHUFFLE_RECORDS_WRITTEN
    )
    dependency
  }

  /**
   * An id that no shuffle has. Spark's clean-up removes a query's shuffles by this id when it ends. This
   * one has no local files, and the query's rows may be fetched once more. [[RestoredOutputs]] then looks at
   * the inputs first.
   */
  override def shuffleId: Int = -1 - shuffleDependency.shuffleId

  override def getShuffleRDD(partitionSpecs: Array[ShufflePartitionSpec]): RDD[InternalRow] = {
    val specs = RestoredExchangeExec.byPartition(partitionSpecs, manifest.numPartitions)
    if (!specs.forall(_.isInstanceOf[CoalescedPartitionSpec])) outputs.splits()
    super.getShuffleRDD(specs)
  }

  private def outputs: RestoredOutputs =
    shuffleDependency.rdd.asInstanceOf[RDD[_]].asInstanceOf[RestoredMapOutputRDD].outputs

  @transient override lazy val mapOutputStatisticsFuture: Future[MapOutputStatistics] =
    Future.fromTry(scala.util.Try(StoreLocation.tracker.getStatistics(shuffleDependency)))

  override def numMappers: Int = manifest.numMaps

  override def runtimeStatistics: Statistics =
    Statistics(manifest.dataSizeBytes, Some(manifest.rows))

  override protected def withNewChildInternal(newChild: SparkPlan): RestoredExchangeExec =
    copy(child = newChild)(checkpoint, inputs, runtime)
}

object RestoredExchangeExec {

  /**
   * A local shuffle reader reads map output by map output and accepts any distribution of the rows. In a
   * store nothing is local, and packs are ordered by reduce partition. So as many tasks read reduce
   * partitions instead. (Whole partitions also allow to recompute some while others keep their results.)
   */
  def byPartition(
      specs: Array[ShufflePartitionSpec],
      numPartitions: Int
  ): Array[ShufflePartitionSpec] = {
    val local = specs.nonEmpty && specs.forall {
      case _: PartialMapperPartitionSpec | _: CoalescedMapperPartitionSpec => true
      case _ => false
    }
    if (!local) specs
    else Array.tabulate(specs.length) { i =>
      def at(n: Int) = (n.toLong * numPartitions / specs.length).toInt
      CoalescedPartitionSpec(at(i), at(i + 1))
    }
  }
}

/**
 * Replaces the restored boundary's input, so that nothing upstream is planned.
 *
 * @param original the input as it was planned, for fingerprints, reuse and user interfaces. Only on
 *                 the driver; operators on executors still need the output attributes
 */
case class RestoredInputExec(override val output: Seq[Attribute])(
    @transient val original: SparkPlan
) extends LeafExecNode
    with CarriesOriginal {
  override protected def otherCopyArgs: Seq[AnyRef] = original :: Nil
  override def nodeName: String = "RestoredCheckpoint"
  override protected def stringArgs: Iterator[Any] = Iterator.empty
  override def doCanonicalize(): SparkPlan = original.canonicalized

  protected override def doExecute(): RDD[InternalRow] =
    throw SparkException.internalError("the input of a restored checkpoint is never executed")
}

/**
 * A restored checkpoint cannot be read any more, and its boundary cannot be recomputed in this query: a
 * part of a result that would now differ was already returned, or the original input cannot be planned.
 */
class DamagedCheckpointException(checkpoint: String)
    extends SparkException(
      s"phoebe: the restored checkpoint $checkpoint cannot be read, and cannot be computed again in " +
        "this query. Submit the job once more."
    )
