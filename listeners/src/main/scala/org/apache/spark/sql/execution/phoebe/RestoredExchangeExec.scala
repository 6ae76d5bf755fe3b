package org.apache.spark.sql.execution.phoebe

import scala.concurrent.Future

import org.apache.spark.{
  MapOutputStatistics,
  Partition,
  PartitionIdPassthrough,
  ShuffleDependency,
  SparkContext,
  SparkException,
  TaskContext
}
import org.apache.spark.rdd.RDD
import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.expressions.Attribute
import org.apache.spark.sql.catalyst.plans.logical.Statistics
import org.apache.spark.sql.catalyst.plans.physical.Partitioning
import org.apache.spark.sql.execution.{LeafExecNode, SparkPlan, UnsafeRowSerializer}
import org.apache.spark.sql.execution.exchange.ShuffleOrigin
import org.apache.spark.sql.execution.metric.{SQLMetric, SQLShuffleWriteMetricsReporter}
import org.apache.spark.sql.execution.phoebe.fingerprint.CarriesOriginal
import org.apache.spark.sql.execution.phoebe.store.{CommittedCheckpoint, Manifest}

/**
 * A shuffle that was written by an earlier application: its map outputs are in the checkpoint
 * store, nothing upstream of it is planned or run.
 *
 * Its files were verified when it was put into the plan ([[Restorer]]). Damage after that cannot
 * be recomputed here: the query fails with [[DamagedCheckpointException]], and the tombstone left
 * makes the next submission compute the boundary.
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
    @transient val runtime: CheckpointRuntime
) extends PhoebeExchange {

  override protected def otherCopyArgs: Seq[AnyRef] = checkpoint :: runtime :: Nil

  override protected lazy val extraMetrics: Map[String, SQLMetric] = Map.empty

  private def manifest: Manifest = checkpoint.manifest

  @transient override protected lazy val source: CheckpointSource =
    CheckpointSource(checkpoint.place, runtime.hadoopConf, restored = true)

  /** Registered with the map output tracker before anyone can ask for it: all its outputs are there. */
  @transient override lazy val shuffleDependency
      : ShuffleDependency[Int, InternalRow, InternalRow] = {
    val dependency = new ShuffleDependency[Int, InternalRow, InternalRow](
      new RestoredMapOutputRDD(sparkContext, manifest.numMaps, checkpoint.place.toString),
      new PartitionIdPassthrough(manifest.numPartitions),
      new UnsafeRowSerializer(child.output.size, longMetric("dataSize"))
    )
    val tracker = StoreLocation.tracker
    if (!tracker.containsShuffle(dependency.shuffleId)) {
      tracker.registerShuffle(dependency.shuffleId, manifest.numMaps, manifest.numPartitions)
    }
    manifest.mapStatuses.zipWithIndex.foreach { case (status, i) =>
      status.updateLocation(StoreLocation(dependency.shuffleId, i))
      tracker.registerMapOutput(dependency.shuffleId, i, status)
    }
    runtime.restored(this, dependency.shuffleId, checkpoint)
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

  @transient override lazy val mapOutputStatisticsFuture: Future[MapOutputStatistics] =
    Future.fromTry(scala.util.Try(StoreLocation.tracker.getStatistics(shuffleDependency)))

  override def numMappers: Int = manifest.numMaps

  override def runtimeStatistics: Statistics =
    Statistics(manifest.dataSizeBytes, Some(manifest.rows))

  override protected def withNewChildInternal(newChild: SparkPlan): RestoredExchangeExec =
    copy(child = newChild)(checkpoint, runtime)
}

/**
 * Stands where the restored boundary's input was, so that nothing upstream is planned.
 *
 * @param original the input as it was planned: what it is, for fingerprints, reuse and user
 *                 interfaces. On the driver only: operators on executors still ask for the output
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

/** A restored checkpoint turned out to be damaged after its first reader had started. */
class DamagedCheckpointException(directory: String)
    extends SparkException(
      s"phoebe: the restored checkpoint $directory is damaged (it was whole when this query began). " +
        "It will not be used again: submit the job once more."
    )

/**
 * The map side of a restored shuffle. It is never computed as long as the checkpoint can be read;
 * Spark asks for it only after a fetch failure.
 */
private[phoebe] final class RestoredMapOutputRDD(sc: SparkContext, numMaps: Int, directory: String)
    extends RDD[Product2[Int, InternalRow]](sc, Nil) {

  override protected def getPartitions: Array[Partition] =
    Array.tabulate[Partition](numMaps)(i => RestoredMapPartition(i))

  override def compute(
      split: Partition,
      context: TaskContext
  ): Iterator[Product2[Int, InternalRow]] =
    throw new DamagedCheckpointException(directory)
}

private[phoebe] final case class RestoredMapPartition(index: Int) extends Partition
