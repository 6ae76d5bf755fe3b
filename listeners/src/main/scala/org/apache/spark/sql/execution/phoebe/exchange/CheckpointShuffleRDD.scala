// In Spark's package for MapOutputTrackerMaster, BlockStoreShuffleReader, SortShuffleManager
// (private[spark]).
package org.apache.spark.sql.execution.phoebe.exchange

import java.io.ByteArrayInputStream

import scala.util.control.NonFatal

import com.google.common.io.ByteStreams

import org.apache.spark.{
  InterruptibleIterator,
  MapOutputTrackerMaster,
  Partition,
  ShuffleDependency,
  SparkContext,
  SparkEnv,
  TaskContext,
  TaskKilledException
}
import org.apache.spark.broadcast.Broadcast
import org.apache.spark.internal.Logging
import org.apache.spark.rdd.RDD
import org.apache.spark.shuffle.{
  BaseShuffleHandle,
  BlockStoreShuffleReader,
  FetchFailedException,
  MetadataFetchFailedException
}
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
import org.apache.spark.storage.{BlockId, BlockManagerId, ShuffleBlockId}
import org.apache.spark.util.CompletionIterator
import org.apache.spark.sql.execution.phoebe.executor.{CheckpointSource, ExecutorCheckpoints}
import org.apache.spark.sql.execution.phoebe.rpc.CheckpointMessages.Stored
import phoebe.FailSafe
import phoebe.files.{DamagedFileException, HadoopFiles}
import phoebe.settings.PhoebeSettings
import phoebe.store.{PackReader, PackReadRequest, Segment, Tombstone}

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

  /** The store is near to no host. In local mode the only host is preferred, as for Spark's outputs. */
  override def getPreferredLocations(partition: Partition): Seq[String] = {
    val (inStore, hosts) =
      super.getPreferredLocations(partition).partition(StoreLocation.isStoreHost)
    if (sparkContext.isLocal && (inStore.nonEmpty || source.restored)) {
      Seq(SparkEnv.get.blockManager.blockManagerId.host)
    } else hosts
  }

  override def compute(split: Partition, context: TaskContext): Iterator[InternalRow] = {
    val id = dependency.shuffleId
    // Before the locations are read: their files are then kept until this task ends.
    val before = FailSafe("join a checkpoint", Option.empty[Stored]) {
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
    val blocks = blocksOf(startMap, endMap, startReduce, endReduce)
    def isInStore(block: (BlockManagerId, _)) = StoreLocation.matches(block._1)
    val known = before.orElse {
      if (blocks.exists(isInStore)) ExecutorCheckpoints.get.stored(id) else None
    }
    // Locations are switched one by one, perhaps while they were read here. Outputs that were still
    // local are in the store too, and are read with the rest: another row order could change results.
    val (inStore, elsewhere) =
      (if (source.restored) blocks else located(blocks, known, id)).partition(isInStore)
    val metrics =
      new SQLShuffleReadMetricsReporter(
        context.taskMetrics().createTempShuffleReadMetrics(),
        readMetrics
      )
    // As in ShuffledRowRDD, but for these blocks: a second look-up might locate them in the store.
    def fromExecutors = new BlockStoreShuffleReader(
      dependency.shuffleHandle.asInstanceOf[BaseShuffleHandle[Int, InternalRow, InternalRow]],
      elsewhere.iterator,
      context,
      metrics,
      shouldBatchFetch = SortShuffleManager.canUseBatchFetch(startReduce, endReduce, context)
    ).read().asInstanceOf[Iterator[Product2[Int, InternalRow]]].map(_._2)
    def fromStore = new StoreShuffleReader(dependency, source, context, metrics).read(
      inStore,
      known,
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

  /** In local mode the tracker returns no blocks for a removed shuffle; here that is an error. */
  private def blocksOf(startMap: Int, endMap: Int, startReduce: Int, endReduce: Int): Blocks = {
    val id = dependency.shuffleId
    val tracker = SparkEnv.get.mapOutputTracker
    def known: Option[AnyRef] = tracker match {
      case master: MapOutputTrackerMaster => master.shuffleStatuses.get(id)
      case _ => Some(tracker)
    }
    val before = known
    val blocks =
      tracker.getMapSizesByExecutorId(id, startMap, endMap, startReduce, endReduce).toSeq
    if (before.isEmpty || !known.exists(_ eq before.get)) {
      throw new MetadataFetchFailedException(id, startReduce, s"phoebe: shuffle $id was removed")
    }
    blocks
  }
}

/** Blocks of a shuffle with their sizes and map indices, by location, as the tracker gives them. */
private[phoebe] object CheckpointShuffleRDD {
  type Blocks = Seq[(BlockManagerId, collection.Seq[(BlockId, Long, Int)])]

  /**
   * In local mode Spark's reader gives rows in the order of map tasks, in every run; on a cluster they
   * come in any order. To keep that order a task reads up to so many bytes at once. Larger reads come
   * pack by pack.
   */
  private[phoebe] val OrderedBytes = 8L << 20

  def mapIdOf(block: BlockId): Long = block.asInstanceOf[ShuffleBlockId].mapId

  /**
   * An executor may keep locations from just before the switch, whose files are then removed. So outputs
   * that the store has are read there. (Not for a restored shuffle: map task ids have no meaning across
   * applications.)
   */
  def located(blocks: Blocks, known: Option[Stored], shuffleId: Int): Blocks =
    known.filter(_ => blocks.exists(block => !StoreLocation.matches(block._1)))
      .fold(blocks) { stored =>
        blocks.flatMap { case (location, ids) =>
          ids.groupBy { case (id, _, mapIndex) =>
            if (stored.holds(mapIdOf(id))) StoreLocation(shuffleId, mapIndex) else location
          }
        }
      }
}

/** Reads shuffle blocks from a checkpoint, one after the other, within one task. */
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
   *   the packs; None if the driver does not know the checkpoint, in which case Spark computes the blocks
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

    /** If the broadcast cannot be read, the bytes are read from the store, which has them too. */
    def heldOrNone(held: Broadcast[PackReader.PackBytes]): PackReader.PackBytes =
      try held.value
      catch {
        case e: TaskKilledException => throw e
        case NonFatal(_) =>
          context.killTaskIfInterrupted()
          Map.empty
      }

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

    val found = guarded {
      val table = stored.getOrElse(
        throw new DamagedFileException(s"nothing is known of the checkpoint ${source.place}")
      )
      val reader = new PackReader(
        table.place.directory,
        source.conf.value.value,
        source.held.fold[PackReader.PackBytes](Map.empty)(heldOrNone),
        PhoebeSettings.readTimeoutMs
      )
      context.addTaskCompletionListener[Unit](_ => closeQuietly(reader))
      reader.read(requests(table, blocks, startReduce, endReduce, allMaps))
    }
    val bytes = blocks.iterator.flatMap(_._2.iterator.map(_._2)).sum
    val segments =
      if (SparkEnv.get.executorId != SparkContext.DRIVER_IDENTIFIER || bytes > OrderedBytes) found
      else guarded(byMap(found, mapId => places(mapId)._2))
    val rows = new Iterator[Iterator[InternalRow]] {
      override def hasNext: Boolean = guarded(segments.hasNext)
      override def next(): Iterator[InternalRow] = guarded {
        val segment = segments.next()
        current = (segment.mapId, segment.partition)
        metrics.incRemoteBlocksFetched(1)
        metrics.incRemoteBytesRead(segment.bytes)
        val block = ShuffleBlockId(dependency.shuffleId, segment.mapId, segment.partition)
        // A store's bytes are never encrypted with an application's key, which ends with it.
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

  /** In the order of map outputs, as Spark's reader returns local blocks. */
  private def byMap(segments: Iterator[Segment], mapIndex: Long => Int): Iterator[Segment] =
    segments.map { segment =>
      val bytes = new Array[Byte](segment.bytes.toInt)
      ByteStreams.readFully(segment.stream, bytes)
      segment.copy(stream = new ByteArrayInputStream(bytes))
    }.toSeq.sortBy(s => (mapIndex(s.mapId), s.partition)).iterator

  private def requests(
      table: Stored,
      blocks: Blocks,
      startReduce: Int,
      endReduce: Int,
      allMaps: Boolean
  ): Seq[PackReadRequest] = {
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
        Some(PackReadRequest(
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
   * Reports an unreadable output as a fetch failure of this one map output, and Spark recomputes it. Of a
   * restored shuffle all outputs are recomputed, after the driver has been told to plan its input.
   */
  private def fail(
      e: Throwable,
      location: BlockManagerId,
      mapId: Long,
      mapIndex: Int,
      reduceId: Int
  ): Nothing = {
    val cause = HadoopFiles.causeOf(e)
    if (source.restored && HadoopFiles.isDamage(cause)) FailSafe.run("leave a tombstone") {
      Tombstone.write(source.place, source.conf.value.value, cause.toString)
    }
    val computes = FailSafe("report an unreadable output", true) {
      ExecutorCheckpoints.get.unreadable(dependency.shuffleId, mapIndex, cause.toString)
    }
    if (!computes) throw new DamagedCheckpointException(s"${source.place} ($cause)")
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
