package org.apache.spark.sql.execution.phoebe

import java.io.{BufferedInputStream, FileInputStream, InputStream}
import java.util.concurrent.ConcurrentHashMap

import scala.util.control.NonFatal

import org.apache.hadoop.fs.Path

import org.apache.spark.{ShuffleDependency, SparkEnv, TaskContext}
import org.apache.spark.broadcast.Broadcast
import org.apache.spark.internal.Logging
import org.apache.spark.scheduler.MapStatus
import org.apache.spark.shuffle.{
  IndexShuffleBlockResolver,
  ShuffleWriteMetricsReporter,
  ShuffleWriteProcessor
}
import org.apache.spark.sql.execution.metric.{SQLMetric, SQLShuffleWriteMetricsReporter}
import org.apache.spark.util.SerializableConfiguration

/**
 * Writes a map task's shuffle output as Spark does, then copies the files just written (still in
 * the page cache) to the checkpoint store: the stage's output becomes the checkpoint in the same pass.
 *
 * A copy that fails is reported and costs the checkpoint, never the task.
 *
 * @param directory the attempt's directory in the store
 * @param writeMetrics Spark's shuffle write metrics of the exchange
 * @param dataSize the metric that the exchange's serializer counts into, read for this task alone
 */
private[phoebe] final class CheckpointWriteProcessor(
    directory: String,
    conf: Broadcast[SerializableConfiguration],
    writeMetrics: Map[String, SQLMetric],
    dataSize: SQLMetric,
    copyTime: SQLMetric,
    bytesCopied: SQLMetric,
    reports: CopyReports
) extends ShuffleWriteProcessor
    with Logging {

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
    val report =
      try {
        if (CheckpointWriteProcessor.gaveUp(directory)) {
          failed(mapIndex, mapId, "an earlier copy on this executor failed")
        } else {
          copy(dep.shuffleId, dep.partitioner.numPartitions, mapId, mapIndex, context)
        }
      } catch {
        case e @ (NonFatal(_) | _: LinkageError) =>
          // The task goes on, unless it is being killed: then it must end as killed.
          context.killTaskIfInterrupted()
          CheckpointWriteProcessor.giveUp(directory)
          logWarning(
            s"phoebe: copying map output $mapIndex to $directory failed: $e; the job goes on without this checkpoint"
          )
          failed(mapIndex, mapId, e.toString)
      }
    reports.add(report)
    status
  }

  private def failed(mapIndex: Int, mapId: Long, error: String) =
    CopyReport(mapIndex, mapId, 0, 0, 0, 0, 0, "", error)

  private def copy(
      shuffleId: Int,
      numPartitions: Int,
      mapId: Long,
      mapIndex: Int,
      context: TaskContext
  ): CopyReport = {
    val start = System.nanoTime()
    val resolver =
      SparkEnv.get.shuffleManager.shuffleBlockResolver.asInstanceOf[IndexShuffleBlockResolver]
    val lengths = CheckpointWriteProcessor.segmentLengths(resolver, shuffleId, mapId, numPartitions)
    val path = new Path(directory)
    val fs = CheckpointStore.fileSystem(path, conf.value.value)
    val index =
      if (lengths.forall(_ == 0))
        new MapFileIndex(MapFileIndex.DefaultChunkBytes, lengths, Array.empty)
      else {
        val in: InputStream =
          new BufferedInputStream(
            new FileInputStream(resolver.getDataFile(shuffleId, mapId)),
            1 << 18
          )
        try {
          val out =
            CheckpointStore.create(fs, new Path(path, CheckpointStore.dataName(mapIndex, mapId)))
          try
            MapFileIndex.copy(
              in,
              lengths,
              out,
              beforeChunk = () => context.killTaskIfInterrupted()
            )
          finally out.close()
        } finally in.close()
      }
    val encoded = MapFileIndex.encode(index)
    CheckpointStore.writeWhole(
      fs,
      new Path(path, CheckpointStore.indexName(mapIndex, mapId)),
      encoded
    )
    val copyNs = System.nanoTime() - start
    copyTime += copyNs / 1000000
    bytesCopied += index.dataBytes
    CopyReport(
      mapIndex,
      mapId,
      index.dataBytes,
      MapFileIndex.crcOfEncoded(encoded),
      context.taskMetrics().shuffleWriteMetrics.recordsWritten,
      dataSize.value,
      copyNs,
      Manifest.encodeSizes(lengths),
      null
    )
  }
}

private[phoebe] object CheckpointWriteProcessor {

  /** Attempts whose copies failed on this executor: the rest of their tasks need not try. */
  private val failedDirectories = ConcurrentHashMap.newKeySet[String]()

  def giveUp(directory: String): Unit = failedDirectories.add(directory)

  def gaveUp(directory: String): Boolean = failedDirectories.contains(directory)

  /** Segment lengths from Spark's index file: numPartitions + 1 offsets, eight bytes each. */
  private def segmentLengths(
      resolver: IndexShuffleBlockResolver,
      shuffleId: Int,
      mapId: Long,
      numPartitions: Int
  ): Array[Long] = {
    val file = resolver.getIndexFile(shuffleId, mapId)
    val in = new java.io.DataInputStream(new BufferedInputStream(new FileInputStream(file)))
    try {
      val offsets = Array.fill(numPartitions + 1)(in.readLong())
      offsets.sliding(2).map(pair => pair(1) - pair(0)).toArray
    } finally in.close()
  }
}
