// In Spark's package for ShuffleStatus, FallbackStorage, SparkContext.executorAllocationManager
// (private[spark]).
package org.apache.spark.sql.execution.phoebe.driver

import java.util.{Collections, IdentityHashMap}

import scala.collection.mutable
import scala.concurrent.Await
import scala.concurrent.duration._
import scala.util.control.NonFatal

import org.apache.spark.{ShuffleStatus, SparkContext, SparkEnv}
import org.apache.spark.internal.Logging
import org.apache.spark.network.shuffle.ExternalBlockStoreClient
import org.apache.spark.rpc.RpcEndpointRef
import org.apache.spark.scheduler.MapStatus
import org.apache.spark.sql.catalyst.plans.physical.Partitioning
import org.apache.spark.sql.execution.{
  CommandResultExec,
  ReusedSubqueryExec,
  SparkPlan,
  SQLExecution
}
import org.apache.spark.sql.execution.adaptive.{
  AdaptiveSparkPlanExec,
  QueryStageExec,
  ShuffleQueryStageExec
}
import org.apache.spark.sql.execution.columnar.InMemoryTableScanExec
import org.apache.spark.sql.execution.exchange.{ReusedExchangeExec, ShuffleExchangeLike}
import org.apache.spark.storage.{BlockManagerId, FallbackStorage}
import org.apache.spark.sql.execution.phoebe.exchange.{
  CheckpointExchangeExec,
  RestoredExchangeExec,
  StoreLocation
}
import org.apache.spark.sql.execution.phoebe.rpc.CheckpointMessages.{encode, Free}
import phoebe.FailSafe

/** Moves a committed shuffle to the store, and removes the local files that are then not needed. */
private[phoebe] object ShuffleFreeing extends Logging {
  import StoreLocation.tracker

  private val FreeTimeout = 60.seconds

  /**
   * Sets the store as the location of a shuffle's outputs in the map output tracker: of those that it
   * still has, those lost with an executor, and those that Spark has recomputed meanwhile (the stage is
   * determinate, so either is right, but the store's outputs survive the loss of executors).
   *
   * Only locations change: `BlockManagerMaster.removeShuffle` would make the driver forget the shuffle
   * (SPARK-53898 is not in 4.2.0), and running jobs would compute everything upstream again.
   *
   * @param later
   *   runs work after a delay
   * @return
   *   the tracker's epoch from which on executors see the new locations, and the outputs that were
   *   registered instead of committed ones
   */
  def moveToStore(
      shuffleId: Int,
      statuses: Array[MapStatus],
      later: (() => Unit) => Unit
  ): (Long, Seq[MapStatus]) = {
    statuses.indices.foreach(i => statuses(i).updateLocation(StoreLocation(shuffleId, i)))
    val others = tracker.shuffleStatuses.get(shuffleId).toSeq.flatMap { registered =>
      val current = registered.withMapStatuses(_.clone())
      current.indices.foreach { i =>
        if (current(i) != null && current(i).mapId == statuses(i).mapId) {
          current(i).updateLocation(StoreLocation(shuffleId, i))
        } else registered.addMapOutput(i, statuses(i)) // the tracker itself may have forgotten it
      }
      forgetSerialized(registered, later)
      current.indices.collect {
        case i if current(i) != null && current(i).mapId != statuses(i).mapId => current(i)
      }
    }
    tracker.incrementEpoch()
    (tracker.getEpoch, others)
  }

  /**
   * Drops the tracker's serialized statuses. Those of many outputs are a broadcast, which executors may
   * still be fetching. Destroying it now would fail their stage, so it is destroyed later.
   */
  def forgetSerialized(registered: ShuffleStatus, later: (() => Unit) => Unit): Unit = {
    val told = registered.withMapStatuses { _ =>
      val broadcast = registered.cachedSerializedBroadcast
      registered.cachedSerializedBroadcast = null
      broadcast
    }
    registered.invalidateSerializedMapOutputStatusCache()
    if (told != null) later(() => told.destroy())
  }

  /**
   * Sets the store as location again, for outputs whose files Spark has since moved to another executor.
   *
   * @return
   *   map ids by the location that Spark had set
   */
  def backToStore(
      shuffleId: Int,
      mapIds: Set[Long],
      later: (() => Unit) => Unit
  ): Map[BlockManagerId, Array[Long]] =
    tracker.shuffleStatuses.get(shuffleId).fold(Map.empty[BlockManagerId, Array[Long]]) {
      registered =>
        val moved = registered.withMapStatuses { statuses =>
          statuses.indices.collect {
            case i
                if statuses(i) != null && mapIds(statuses(i).mapId) &&
                  !StoreLocation.matches(statuses(i).location) =>
              val from = statuses(i).location
              statuses(i).updateLocation(StoreLocation(shuffleId, i))
              from -> statuses(i).mapId
          }
        }
        if (moved.nonEmpty) {
          forgetSerialized(registered, later)
          tracker.incrementEpoch()
        }
        byLocation(moved)
    }

  /** Map ids by the location of their files. */
  def byLocation(outputs: Seq[(BlockManagerId, Long)]): Map[BlockManagerId, Array[Long]] =
    outputs.groupMap(_._1)(_._2).map { case (where, mapIds) => where -> mapIds.toArray }

  /**
   * Removes local files of a shuffle that have no more readers, on the executors that have them, and
   * through the external shuffle service for lost executors.
   *
   * @param located
   *   map ids by their locations before
   * @return
   *   bytes removed from local disks, as far as executors report them
   */
  def own(
      sc: SparkContext,
      shuffleId: Int,
      located: Map[BlockManagerId, Array[Long]],
      executors: Map[String, RpcEndpointRef]
  ): Long = {
    // Spark's fallback storage is cleaned up by Spark.
    val onDisks = located.filterNot(_._1 == FallbackStorage.FALLBACK_BLOCK_MANAGER_ID)
    val answers = onDisks.toSeq.flatMap { case (where, mapIds) =>
      executors.get(where.executorId) match {
        case Some(executor) =>
          Some((where, mapIds, executor.ask[Long](encode(Free(shuffleId, mapIds)))))
        case None =>
          removeFromService(shuffleId, where, mapIds)
          None
      }
    }
    val freed = answers.map { case (where, mapIds, answer) =>
      try Await.result(answer, FreeTimeout)
      catch {
        case NonFatal(e) =>
          logDebug(s"phoebe: $where did not free its files, it may just have been lost: $e")
          removeFromService(shuffleId, where, mapIds)
          0L
      }
    }.sum
    unpin(sc, shuffleId)
    freed
  }

  /** Dynamic allocation keeps an executor for its shuffle files. These are gone. */
  private def unpin(sc: SparkContext, shuffleId: Int): Unit =
    sc.executorAllocationManager.foreach(_.executorMonitor.shuffleCleaned(shuffleId))

  private def removeFromService(
      shuffleId: Int,
      where: BlockManagerId,
      mapIds: Array[Long]
  ): Unit = SparkEnv.get.blockManager.blockStoreClient match {
    case service: ExternalBlockStoreClient =>
      val resolver = SparkEnv.get.shuffleManager.shuffleBlockResolver
      val blocks = mapIds.flatMap(resolver.getBlocksForShuffle(shuffleId, _)).map(_.toString)
      FailSafe.run("free local files of a lost executor") {
        service.removeBlocks(where.host, where.port, where.executorId, blocks)
      }
    case _ => // gone with their executor
  }

  /**
   * Removes the shuffles below a committed boundary that no running part of the query can still read. A
   * shuffle is kept if the query (all its fragments, subqueries too) has or will have a reader of it
   * outside the boundary's own subtree. If a removed shuffle is read after all, Spark recomputes it.
   *
   * The plans are examined on a thread of ours. To compare exchanges Spark creates nodes, and a node
   * takes its session from the creating thread. So the session is active here.
   */
  def upstream(exchange: CheckpointExchangeExec): Long =
    Option(SQLExecution.getQueryExecution(exchange.executionId)).fold(0L) { query =>
      query.sparkSession.withActive(upstream(exchange, query.executedPlan))
    }

  private def upstream(exchange: CheckpointExchangeExec, plan: SparkPlan): Long = {
    val outside = new Walk(exchange)
    outside.from(plan)
    if (!outside.metFreeing) {
      // The boundary is not (or no longer) part of the running plan, so its readers are not known.
      logDebug(
        s"phoebe: ${exchange.fingerprint} is not in the running plan, nothing upstream is freed"
      )
      0L
    } else {
      val inside = new Walk(exchange)
      exchange.children.foreach(inside.from)
      val freeable = inside.materialized.filterNot { case (id, canonical) =>
        exchange.runtime.shuffles.get(id).exists(_.isStored) ||
        outside.materialized.contains(id) || outside.mayReuse(canonical)
      }
      val runtime = exchange.runtime
      freeable.keys.toSeq.map { id =>
        val outputs = whole(id)
        if (outputs.nonEmpty) runtime.shuffles.freed(id)
        // The shuffle stays registered: a job that was submitted before may still read it, finds the
        // outputs missing and recomputes them. An unknown shuffle would fail the job. And an output
        // of an unknown shuffle, reported by a late task, ends Spark's scheduler.
        if (outputs.nonEmpty) tracker.unregisterAllMapAndMergeOutput(id)
        own(runtime.phoebe.sparkContext, id, byLocation(outputs), runtime.shuffles.executors)
      }.sum
    }
  }

  /** A shuffle's outputs; none if some are missing, because Spark is then recomputing them. */
  private def whole(shuffleId: Int): Seq[(BlockManagerId, Long)] =
    tracker.shuffleStatuses.get(shuffleId).toSeq.flatMap(_.withMapStatuses { statuses =>
      if (statuses.contains(null)) Nil else statuses.toSeq.map(s => s.location -> s.mapId)
    })

  /**
   * Collects the shuffles that a plan reads, through stages, reuse, subqueries and caches. It stops at
   * boundaries whose output is in the store (`freeing`, earlier ones of this application, restored
   * ones): these no longer read what is below them.
   */
  private final class Walk(freeing: CheckpointExchangeExec) {
    val materialized = mutable.Map.empty[Int, SparkPlan]
    private val pending = mutable.Set.empty[SparkPlan]
    private val unmade = mutable.ArrayBuffer.empty[ShuffleExchangeLike]
    var metFreeing = false
    private val seen = Collections.newSetFromMap(new IdentityHashMap[SparkPlan, java.lang.Boolean])

    /** Whether an exchange that runs or has yet to run may reuse a shuffle instead. */
    def mayReuse(canonical: SparkPlan): Boolean = pending(canonical) || unmade.exists { exchange =>
      alike(exchange.outputPartitioning, canonical.outputPartitioning) &&
      exchange.canonicalized == canonical
    }

    /** A cheap comparison of the exchanges alone: comparing two subtrees creates new nodes. */
    private def alike(one: Partitioning, other: Partitioning): Boolean =
      one.getClass == other.getClass && one.numPartitions == other.numPartitions

    def from(plan: SparkPlan): Unit = if (seen.add(plan)) {
      plan match {
        case stage: ShuffleQueryStageExec if stage.shuffle eq freeing => metFreeing = true
        case stage: ShuffleQueryStageExec if stage.isMaterialized =>
          val id = stage.shuffle match {
            case restored: RestoredExchangeExec => restored.shuffleDependency.shuffleId
            case other => other.shuffleId
          }
          materialized(id) = stage._canonicalized
          if (!freeing.runtime.shuffles.get(id).exists(_.isStored)) from(stage.plan)
        case stage: ShuffleQueryStageExec =>
          pending += stage._canonicalized
          from(stage.plan)
        case exchange if exchange eq freeing => metFreeing = true
        case exchange: ShuffleExchangeLike =>
          unmade += exchange
          below(exchange)
        case other => below(other)
      }
    }

    private def below(plan: SparkPlan): Unit = plan match {
      case adaptive: AdaptiveSparkPlanExec => from(adaptive.executedPlan)
      case stage: QueryStageExec => from(stage.plan)
      case ReusedExchangeExec(_, child) => from(child)
      case ReusedSubqueryExec(child) => from(child)
      case scan: InMemoryTableScanExec => from(scan.relation.cachedPlan)
      case result: CommandResultExec => from(result.commandPhysicalPlan)
      case other =>
        other.children.foreach(from)
        other.subqueries.foreach(from)
    }
  }
}
