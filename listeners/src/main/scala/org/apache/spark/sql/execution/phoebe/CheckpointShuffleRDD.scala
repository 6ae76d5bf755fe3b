package org.apache.spark.sql.execution.phoebe

import java.util.concurrent.ExecutionException

import scala.util.control.NonFatal

import com.google.common.cache.{Cache, CacheBuilder, Weigher}
import org.apache.hadoop.fs.Path

import org.apache.spark.{
  InterruptibleIterator,
  Partition,
  ShuffleDependency,
  SparkEnv,
  TaskContext,
  TaskKilledException
}
import org.apache.spark.broadcast.Broadcast
import org.apache.spark.internal.Logging
import org.apache.spark.shuffle.{BaseShuffleHandle, BlockStoreShuffleReader, FetchFailedException}
import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.execution.{
  CoalescedMapperPartitionSpec,
  CoalescedPartitionSpec,
  PartialMapperPartitionSpec,
  PartialReducerPartitionSpec,
  ShuffledRowRDD,
  ShuffledRowRDDPartition,
  ShufflePartitionSpec
}
import org.apache.spark.sql.execution.metric.{SQLMetric, SQLShuffleReadMetricsReporter}
import org.apache.spark.storage.{BlockId, BlockManagerId, ShuffleBlockId}
import org.apache.spark.util.{CompletionIterator, SerializableConfiguration}

/**
 * Where a checkpoint's files are, for readers on executors.
 *
 * @param restored whether another application wrote it: then nothing upstream can recompute a
 *                 damaged output, and damage leaves a tombstone so that the next run does not meet it
 */
private[phoebe] final case class CheckpointSource(
    directory: String,
    conf: Broadcast[SerializableConfiguration],
    restored: Boolean
)

/**
 * Reads a shuffle whose map outputs may be in the checkpoint store.
 *
 * It keeps the shuffle dependency and asks the map output tracker for each map output, as Spark's
 * own reader does: outputs located in the store are read from there, all others through Spark's
 * reader. Damage is reported as a fetch failure of that one output, so Spark itself recomputes it.
 */
private[phoebe] final class CheckpointShuffleRDD(
    checkpointed: ShuffleDependency[Int, InternalRow, InternalRow],
    readMetrics: Map[String, SQLMetric],
    partitionSpecs: Array[ShufflePartitionSpec],
    source: CheckpointSource
) extends ShuffledRowRDD(checkpointed, readMetrics, partitionSpecs) {

  def this(
      checkpointed: ShuffleDependency[Int, InternalRow, InternalRow],
      readMetrics: Map[String, SQLMetric],
      source: CheckpointSource
  ) =
    this(
      checkpointed,
      readMetrics,
      Array.tabulate(checkpointed.partitioner.numPartitions)(i => CoalescedPartitionSpec(i, i + 1)),
      source
    )

  override def getPreferredLocations(partition: Partition): Seq[String] =
    super.getPreferredLocations(partition).filterNot(StoreLocation.isStoreHost)

  override def compute(split: Partition, context: TaskContext): Iterator[InternalRow] = {
    val (startMap, endMap, startReduce, endReduce) =
      split.asInstanceOf[ShuffledRowRDDPartition].spec match {
        case CoalescedPartitionSpec(start, end, _) => (0, Int.MaxValue, start, end)
        case PartialReducerPartitionSpec(reducer, start, end, _) =>
          (start, end, reducer, reducer + 1)
        case PartialMapperPartitionSpec(map, start, end) => (map, map + 1, start, end)
        case CoalescedMapperPartitionSpec(start, end, reducers) => (start, end, 0, reducers)
      }
    val blocks = SparkEnv.get.mapOutputTracker
      .getMapSizesByExecutorId(dependency.shuffleId, startMap, endMap, startReduce, endReduce)
      .toSeq
    val (stored, elsewhere) = blocks.partition { case (location, _) =>
      StoreLocation.matches(location)
    }
    if (stored.isEmpty) super.compute(split, context)
    else {
      val metrics =
        new SQLShuffleReadMetricsReporter(
          context.taskMetrics().createTempShuffleReadMetrics(),
          readMetrics
        )
      val fromStore = new StoreShuffleReader(dependency, source, context, metrics).read(stored)
      if (elsewhere.isEmpty) fromStore
      else {
        val fromExecutors = new BlockStoreShuffleReader(
          dependency.shuffleHandle.asInstanceOf[BaseShuffleHandle[Int, InternalRow, InternalRow]],
          elsewhere.iterator,
          context,
          metrics
        ).read().asInstanceOf[Iterator[Product2[Int, InternalRow]]].map(_._2)
        fromExecutors ++ fromStore
      }
    }
  }
}

/** Reads shuffle blocks out of a checkpoint, one map output after the other, within one task. */
private[phoebe] final class StoreShuffleReader(
    dependency: ShuffleDependency[Int, InternalRow, InternalRow],
    source: CheckpointSource,
    context: TaskContext,
    metrics: SQLShuffleReadMetricsReporter
) extends Logging {
  import StoreShuffleReader.indexes

  private val directory = new Path(source.directory)
  private val fs = CheckpointStore.fileSystem(directory, source.conf.value.value)
  private val serializer = dependency.serializer.newInstance()
  private val wrap = SparkEnv.get.serializerManager
  private var open: MapFileReader = _
  private var openMapId = -1L
  context.addTaskCompletionListener[Unit](_ => close())

  private def close(): Unit = if (open != null) {
    try open.close()
    catch { case NonFatal(e) => logDebug(s"closing a checkpoint file failed: $e") }
    open = null
  }

  /** The file of a map output; the blocks of one come one after the other. */
  private def fileOf(mapIndex: Int, mapId: Long, index: MapFileIndex): MapFileReader = {
    if (open == null || openMapId != mapId) {
      close()
      val path = new Path(directory, CheckpointStore.dataName(mapIndex, mapId))
      open = new MapFileReader(fs, path, index)
      openMapId = mapId
    }
    open
  }

  def read(
      blocks: Seq[(BlockManagerId, collection.Seq[(BlockId, Long, Int)])]
  ): Iterator[InternalRow] = {
    val rows = blocks.iterator.flatMap { case (location, ids) =>
      ids.iterator.flatMap { case (id, _, mapIndex) =>
        readBlock(location, id.asInstanceOf[ShuffleBlockId], mapIndex)
      }
    }
    new InterruptibleIterator(
      context,
      CompletionIterator[InternalRow, Iterator[InternalRow]](
        rows,
        context.taskMetrics().mergeShuffleReadMetrics()
      )
    )
  }

  private def readBlock(
      location: BlockManagerId,
      block: ShuffleBlockId,
      mapIndex: Int
  ): Iterator[InternalRow] = {
    def guarded[T](body: => T): T =
      try body
      catch failing(location, block, mapIndex)
    val (length, pairs) = guarded {
      val index = indexOf(mapIndex, block.mapId)
      val segment = fileOf(mapIndex, block.mapId, index).segment(block.reduceId)
      val stream = wrap.wrapStream(block, segment)
      (index.lengths(block.reduceId), serializer.deserializeStream(stream).asKeyValueIterator)
    }
    metrics.incRemoteBlocksFetched(1)
    metrics.incRemoteBytesRead(length)
    new Iterator[InternalRow] {
      override def hasNext: Boolean = guarded(pairs.hasNext)
      override def next(): InternalRow = guarded {
        metrics.incRecordsRead(1)
        pairs.next()._2.asInstanceOf[InternalRow]
      }
    }
  }

  private def indexOf(mapIndex: Int, mapId: Long): MapFileIndex = {
    val file = MapFile(mapIndex, mapId, None)
    indexes.get(
      s"${source.directory}/${CheckpointStore.indexName(mapIndex, mapId)}",
      () => CheckpointStore.readIndex(fs, directory, file)
    )
  }

  /**
   * What cannot be read becomes a fetch failure of this one map output, and Spark recomputes it. A
   * restored one cannot be recomputed: there only damage is final, anything else is left to Spark's
   * ordinary task retries.
   */
  private def failing[T](
      location: BlockManagerId,
      block: ShuffleBlockId,
      mapIndex: Int
  ): PartialFunction[Throwable, T] = {
    case e: TaskKilledException => throw e
    case e: FetchFailedException => throw e
    case NonFatal(e) =>
      context.killTaskIfInterrupted()
      val cause = e match {
        case wrapped: ExecutionException if wrapped.getCause != null => wrapped.getCause
        case other => other
      }
      if (source.restored) {
        if (!CheckpointStore.isDamage(cause)) throw cause
        CheckpointStore.writeTombstone(directory, source.conf.value.value, cause.toString)
      }
      val message =
        s"phoebe: map output $mapIndex of the checkpoint ${source.directory} cannot be read: $cause"
      throw new FetchFailedException(
        location,
        block.shuffleId,
        block.mapId,
        mapIndex,
        block.reduceId,
        message,
        cause
      )
  }
}

private[phoebe] object StoreShuffleReader {
  private val CacheBytes = 32L << 20

  /** Indexes of map files that this executor has read lately, by path. */
  private val indexes: Cache[String, MapFileIndex] = CacheBuilder
    .newBuilder()
    .maximumWeight(CacheBytes)
    .weigher(new Weigher[String, MapFileIndex] {
      override def weigh(path: String, index: MapFileIndex): Int = index.weight + path.length
    })
    .build()
}
