package org.apache.spark.sql.execution.phoebe

import scala.util.control.NonFatal

import org.apache.spark.{
  InterruptibleIterator,
  Partition,
  ShuffleDependency,
  SparkEnv,
  TaskContext,
  TaskKilledException
}
import org.apache.spark.internal.Logging
import org.apache.spark.rdd.RDD
import org.apache.spark.shuffle.{BaseShuffleHandle, BlockStoreShuffleReader, FetchFailedException}
import org.apache.spark.shuffle.sort.SortShuffleManager
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
import org.apache.spark.sql.execution.phoebe.CheckpointMessages.Stored
import org.apache.spark.sql.execution.phoebe.store._
import org.apache.spark.storage.{BlockId, BlockManagerId, ShuffleBlockId}
import org.apache.spark.util.CompletionIterator

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
  import CheckpointShuffleRDD._

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
    val id = dependency.shuffleId
    // Before the locations are looked up: what they name stays until this task ends.
    val known = Guard("join a checkpoint", Option.empty[Stored]) {
      ExecutorCheckpoints.get.reading(id, context)
    }
    val (startMap, endMap, startReduce, endReduce) =
      split.asInstanceOf[ShuffledRowRDDPartition].spec match {
        case CoalescedPartitionSpec(start, end, _) => (0, Int.MaxValue, start, end)
        case PartialReducerPartitionSpec(reducer, start, end, _) =>
          (start, end, reducer, reducer + 1)
        case PartialMapperPartitionSpec(map, start, end) => (map, map + 1, start, end)
        case CoalescedMapperPartitionSpec(start, end, reducers) => (start, end, 0, reducers)
      }
    val blocks = SparkEnv.get.mapOutputTracker
      .getMapSizesByExecutorId(id, startMap, endMap, startReduce, endReduce)
      .toSeq
    val (inStore, elsewhere) = located(blocks, known).partition { case (location, _) =>
      StoreLocation.matches(location)
    }
    val metrics =
      new SQLShuffleReadMetricsReporter(
        context.taskMetrics().createTempShuffleReadMetrics(),
        readMetrics
      )
    // As ShuffledRowRDD would, but of these blocks: looked up once more they might be in the store.
    def fromExecutors = new BlockStoreShuffleReader(
      dependency.shuffleHandle.asInstanceOf[BaseShuffleHandle[Int, InternalRow, InternalRow]],
      elsewhere.iterator,
      context,
      metrics,
      shouldBatchFetch = SortShuffleManager.canUseBatchFetch(startReduce, endReduce, context)
    ).read().asInstanceOf[Iterator[Product2[Int, InternalRow]]].map(_._2)
    def fromStore = new StoreShuffleReader(dependency, source, context, metrics).read(
      inStore,
      known.orElse(ExecutorCheckpoints.get.stored(id)),
      startReduce,
      endReduce,
      endMap == Int.MaxValue
    )
    if (inStore.isEmpty) fromExecutors
    else if (elsewhere.isEmpty) fromStore
    else {
      val stored = fromStore
      fromExecutors ++ stored
    }
  }

  /**
   * Locations that an executor had asked for just before the switch may be kept after it, and their
   * files are not: what the store is known to hold is read there.
   */
  private def located(blocks: Blocks, known: Option[Stored]): Blocks =
    known.filter(_ => blocks.exists(b => !StoreLocation.matches(b._1))).fold(blocks) { stored =>
      blocks.flatMap { case (location, ids) =>
        ids.groupBy { case (id, _, mapIndex) =>
          if (stored.holds(mapIdOf(id))) StoreLocation(dependency.shuffleId, mapIndex) else location
        }
      }
    }
}

/** Blocks of a shuffle with their sizes and map indices, by location, as the tracker gives them. */
private[phoebe] object CheckpointShuffleRDD {
  type Blocks = Seq[(BlockManagerId, collection.Seq[(BlockId, Long, Int)])]

  def mapIdOf(block: BlockId): Long = block.asInstanceOf[ShuffleBlockId].mapId
}

/** Reads shuffle blocks out of a checkpoint, one after the other, within one task. */
private[phoebe] final class StoreShuffleReader(
    dependency: ShuffleDependency[Int, InternalRow, InternalRow],
    source: CheckpointSource,
    context: TaskContext,
    metrics: SQLShuffleReadMetricsReporter
) extends Logging {
  import CheckpointShuffleRDD._

  private val serializer = dependency.serializer.newInstance()
  private val wrap = SparkEnv.get.serializerManager

  /**
   * @param stored
   *   where the packs are; None if the driver knows nothing of them, then Spark computes the blocks
   */
  def read(
      blocks: Blocks,
      stored: Option[Stored],
      startReduce: Int,
      endReduce: Int,
      allMaps: Boolean
  ): Iterator[InternalRow] = {
    val places = blocks.iterator.flatMap { case (location, ids) =>
      ids.iterator.map { case (id, _, mapIndex) =>
        mapIdOf(id) -> (location, mapIndex)
      }
    }.toMap
    val first = blocks.head._2.head._1.asInstanceOf[ShuffleBlockId]
    var current = (first.mapId, first.reduceId)

    def guarded[T](body: => T): T =
      try body
      catch {
        case e: TaskKilledException => throw e
        case e: FetchFailedException => throw e
        case NonFatal(e) =>
          context.killTaskIfInterrupted()
          val (mapId, reduceId) = current
          val (location, mapIndex) = places(mapId)
          fail(e, location, mapId, mapIndex, reduceId)
      }

    val segments = guarded {
      val table = stored.getOrElse(
        throw new DamagedFileException(s"nothing is known of the checkpoint ${source.place}")
      )
      val reader = new PackReader(table.place.directory, source.conf.value.value)
      context.addTaskCompletionListener[Unit](_ => closeQuietly(reader))
      reader.read(wishes(table, blocks, startReduce, endReduce, allMaps))
    }
    val rows = new Iterator[Iterator[InternalRow]] {
      override def hasNext: Boolean = guarded(segments.hasNext)
      override def next(): Iterator[InternalRow] = guarded {
        val segment = segments.next()
        current = (segment.mapId, segment.partition)
        metrics.incRemoteBlocksFetched(1)
        metrics.incRemoteBytesRead(segment.bytes)
        val block = ShuffleBlockId(dependency.shuffleId, segment.mapId, segment.partition)
        // What is in a store is never encrypted by an application: its key ends with it.
        val plain = wrap.wrapForCompression(block, segment.stream)
        val pairs = serializer.deserializeStream(plain).asKeyValueIterator
        new Iterator[InternalRow] {
          override def hasNext: Boolean = guarded(pairs.hasNext)
          override def next(): InternalRow = guarded {
            metrics.incRecordsRead(1)
            pairs.next()._2.asInstanceOf[InternalRow]
          }
        }
      }
    }
    new InterruptibleIterator(
      context,
      CompletionIterator[InternalRow, Iterator[InternalRow]](
        rows.flatten,
        context.taskMetrics().mergeShuffleReadMetrics()
      )
    )
  }

  private def wishes(
      table: Stored,
      blocks: Blocks,
      startReduce: Int,
      endReduce: Int,
      allMaps: Boolean
  ): Seq[PackWish] = {
    val counts = scala.collection.mutable.LongMap.empty[Int]
    blocks.foreach(_._2.foreach { case (id, _, _) =>
      val mapId = mapIdOf(id)
      counts(mapId) = counts.getOrElse(mapId, 0) + 1
    })
    val found = table.packs.toSeq.flatMap { pack =>
      val wanted = pack.mapIds.filter(counts.contains)
      if (wanted.isEmpty) None
      else {
        val sequential = allMaps || wanted.length == pack.mapIds.length
        Some(PackWish(
          pack,
          wanted.toSet,
          startReduce,
          endReduce,
          wanted.map(counts).sum,
          sequential
        ))
      }
    }
    if (found.map(_.mapIds.size).sum != counts.size) {
      throw new DamagedFileException(s"map outputs are missing from the checkpoint ${table.place}")
    }
    found
  }

  private def closeQuietly(reader: PackReader): Unit =
    try reader.close()
    catch { case NonFatal(e) => logDebug(s"closing a checkpoint file failed: $e") }

  /**
   * What cannot be read becomes a fetch failure of this one map output, and Spark recomputes it. A
   * restored one cannot be recomputed: there only damage is final, anything else is left to Spark's
   * ordinary task retries.
   */
  private def fail(
      e: Throwable,
      location: BlockManagerId,
      mapId: Long,
      mapIndex: Int,
      reduceId: Int
  ): Nothing = {
    val cause = StoreFiles.causeOf(e)
    if (source.restored) {
      if (!StoreFiles.isDamage(cause)) throw cause
      StoreFiles.writeTombstone(source.place, source.conf.value.value, cause.toString)
    } else Guard.run("report an unreadable output") {
      ExecutorCheckpoints.get.unreadable(dependency.shuffleId, mapIndex)
    }
    val message =
      s"phoebe: map output $mapIndex of the checkpoint ${source.place} cannot be read: $cause"
    throw new FetchFailedException(
      location,
      dependency.shuffleId,
      mapId,
      mapIndex,
      reduceId,
      message,
      cause
    )
  }
}
