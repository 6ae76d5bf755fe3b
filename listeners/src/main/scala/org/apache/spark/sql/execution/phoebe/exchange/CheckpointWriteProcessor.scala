// In Spark's package for ShuffleWriteProcessor, MapStatus (private[spark]).
package org.apache.spark.sql.execution.phoebe.exchange

import org.apache.spark.{ShuffleDependency, TaskContext}
import org.apache.spark.scheduler.MapStatus
import org.apache.spark.shuffle.{ShuffleWriteMetricsReporter, ShuffleWriteProcessor}
import org.apache.spark.sql.execution.metric.{SQLMetric, SQLShuffleWriteMetricsReporter}
import org.apache.spark.sql.execution.phoebe.executor.{CheckpointSource, ExecutorCheckpoints}
import org.apache.spark.sql.execution.phoebe.rpc.CheckpointMessages.MapOutput
import phoebe.FailSafe

/**
 * Writes a map task's shuffle output as Spark does, and queues it for upload to the checkpoint store:
 * the stage's output becomes the checkpoint. The task does not wait for the upload.
 *
 * @param writeMetrics Spark's shuffle write metrics of the exchange
 * @param dataSize the metric that the exchange's serializer counts into, read for this task alone
 */
private[phoebe] final class CheckpointWriteProcessor(
    source: CheckpointSource,
    writeMetrics: Map[String, SQLMetric],
    dataSize: SQLMetric
) extends ShuffleWriteProcessor {

  override protected def createMetricsReporter(context: TaskContext): ShuffleWriteMetricsReporter =
    new SQLShuffleWriteMetricsReporter(context.taskMetrics().shuffleWriteMetrics, writeMetrics)

  override def write(
      inputs: Iterator[_],
      dep: ShuffleDependency[_, _, _],
      mapId: Long,
      mapIndex: Int,
      context: TaskContext
  ): MapStatus = {
    val status = super.write(inputs, dep, mapId, mapIndex, context)
    FailSafe.run("leave a map output for upload") {
      ExecutorCheckpoints.get.upload(
        dep.shuffleId,
        source,
        MapOutput(
          mapIndex,
          mapId,
          dep.partitioner.numPartitions,
          context.taskMetrics().shuffleWriteMetrics.bytesWritten,
          context.taskMetrics().shuffleWriteMetrics.recordsWritten,
          dataSize.value
        )
      )
    }
    status
  }
}
