package org.apache.spark.sql.execution.phoebe

import java.util.{Collections, IdentityHashMap}

import scala.collection.mutable

import org.apache.spark.{MapOutputTrackerMaster, ShuffleDependency, SparkEnv}
import org.apache.spark.internal.Logging
import org.apache.spark.scheduler.MapStatus
import org.apache.spark.sql.catalyst.InternalRow
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

/** Removes shuffle files that a committed checkpoint has made superfluous, on every executor. */
private[phoebe] object ShuffleFreeing extends Logging {

  private def tracker: MapOutputTrackerMaster =
    SparkEnv.get.mapOutputTracker.asInstanceOf[MapOutputTrackerMaster]

  /**
   * Removes a committed shuffle's local files and says that its outputs are in the store.
   *
   * `BlockManagerMaster.removeShuffle` also makes the driver forget the shuffle (in 4.2.0; its own
   * block manager gets the message too): left so, Spark would run everything upstream again. Hence
   * it is registered anew, whatever became of the removal: what was committed can be read.
   *
   * @return bytes that the files had, as the map statuses estimate them
   */
  def own(
      dependency: ShuffleDependency[Int, InternalRow, InternalRow],
      statuses: Array[MapStatus]
  ): Long = {
    val id = dependency.shuffleId
    val partitions = dependency.partitioner.numPartitions
    try remove(id)
    finally {
      tracker.unregisterShuffle(id)
      tracker.registerShuffle(id, statuses.length, partitions)
      statuses.indices.foreach { i =>
        statuses(i).updateLocation(StoreLocation(id, i))
        tracker.registerMapOutput(id, i, statuses(i))
      }
      tracker.incrementEpoch() // executors forget the locations that they may have cached
    }
    bytes(statuses, partitions)
  }

  /**
   * Removes the shuffles below a committed boundary that nothing live can still ask for: every
   * reader that the running query (all its fragments, subqueries too) has or will have outside the
   * boundary's own subtree keeps them. Spark recomputes what is asked for after all.
   */
  def upstream(exchange: CheckpointExchangeExec): Long =
    Option(SQLExecution.getQueryExecution(exchange.executionId)).fold(0L) { query =>
      val outside = new Walk(exchange)
      outside.from(query.executedPlan)
      if (!outside.metFreeing) {
        // The boundary is not (or no longer) part of the running plan: then nothing is known.
        logDebug(
          s"phoebe: ${exchange.fingerprint} is not in the running plan, nothing upstream is freed"
        )
        0L
      } else {
        val inside = new Walk(exchange)
        exchange.children.foreach(inside.from)
        val freeable = inside.materialized.filterNot { case (id, canonical) =>
          exchange.runtime.isInStore(id) || outside.materialized.contains(id) ||
          outside.pending(canonical)
        }
        freeable.keys.toSeq.map { id =>
          val size = tracker.shuffleStatuses.get(id).fold(0L) { status =>
            status.withMapStatuses(s =>
              if (s.contains(null)) 0L else bytes(s, inside.partitions(id))
            )
          }
          val maps = tracker.shuffleStatuses.get(id).map(_.mapStatuses.length)
          remove(id)
          // A job that was submitted before may still ask: it finds the outputs missing, and
          // recomputes them, where an unknown shuffle would fail it.
          maps.filterNot(_ => tracker.containsShuffle(id)).foreach { n =>
            tracker.registerShuffle(id, n, inside.partitions(id))
          }
          size
        }.sum
      }
    }

  private def bytes(statuses: Array[MapStatus], partitions: Int): Long =
    statuses.iterator.map(s => (0 until partitions).iterator.map(s.getSizeForBlock).sum).sum

  private def remove(shuffleId: Int): Unit =
    SparkEnv.get.blockManager.master.removeShuffle(shuffleId, blocking = true)

  /**
   * Collects the shuffles that a plan reads, looking through stages, reuse, subqueries and caches. It
   * stops at boundaries whose output is in the store (`freeing`, earlier ones of this application,
   * restored ones): below them nobody reads for their sake any more.
   */
  private final class Walk(freeing: CheckpointExchangeExec) {
    val materialized = mutable.Map.empty[Int, SparkPlan]
    val partitions = mutable.Map.empty[Int, Int]
    val pending = mutable.Set.empty[SparkPlan]
    var metFreeing = false
    private val seen = Collections.newSetFromMap(new IdentityHashMap[SparkPlan, java.lang.Boolean])

    def from(plan: SparkPlan): Unit = if (seen.add(plan)) {
      plan match {
        case stage: ShuffleQueryStageExec if stage.shuffle eq freeing => metFreeing = true
        case stage: ShuffleQueryStageExec if stage.isMaterialized =>
          val id = stage.shuffle.shuffleId
          materialized(id) = stage._canonicalized
          partitions(id) = stage.shuffle.numPartitions
          if (!freeing.runtime.isInStore(id)) from(stage.plan)
        case stage: ShuffleQueryStageExec =>
          pending += stage._canonicalized
          from(stage.plan)
        case exchange if exchange eq freeing => metFreeing = true
        case exchange: ShuffleExchangeLike =>
          pending += exchange.canonicalized
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
