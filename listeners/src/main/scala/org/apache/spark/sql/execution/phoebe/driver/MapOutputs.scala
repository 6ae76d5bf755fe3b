// In Spark's package for MapStatus, ShuffleStatus (private[spark]).
package org.apache.spark.sql.execution.phoebe.driver

import scala.collection.mutable

import org.apache.spark.ShuffleDependency
import org.apache.spark.rdd.RDD
import org.apache.spark.scheduler.MapStatus
import org.apache.spark.sql.execution.phoebe.compat.SparkVersion
import org.apache.spark.sql.execution.phoebe.exchange.StoreLocation
import phoebe.Reason

/**
 * Spark's state of a map stage's outputs, and of the outputs that they are computed from.
 *
 * @param upstreamIds
 *   the shuffles that the stage reads, directly or not
 * @param rowsAreChecked
 *   whether Spark notes an order-independent checksum of each output's rows
 */
private[phoebe] final class MapOutputs(
    shuffleId: Int,
    upstreamIds: Set[Int],
    rowsAreChecked: Boolean,
    shuffles: CheckpointedShuffles
) {

  /** The current map statuses; null for a lost output. */
  def current: Array[MapStatus] =
    StoreLocation.tracker.shuffleStatuses.get(shuffleId).map(
      _.withMapStatuses(_.clone())
    ).getOrElse(Array.empty)

  /**
   * Whether outputs that were computed again have the same rows as before. Spark compares the rows'
   * checksums. If they differ (sums of floating-point numbers, say), readers must not be sent from one
   * output to the other. Without checksums this is not known. The same holds for the outputs that these
   * were computed from.
   *
   * @param statuses
   *   the outputs to be stored
   * @param ended
   *   the outputs that the map stage ended with
   */
  def recomputedAlike(
      statuses: Array[MapStatus],
      ended: => Array[MapStatus]
  ): Either[Reason, Unit] = {
    val tracked = StoreLocation.tracker.shuffleStatuses
    // Spark rolls back the readers of an output that differs, also of one upstream.
    val differs = (upstreamIds + shuffleId).exists { id =>
      tracked.get(id)
        .exists(status => status.withMapStatuses(_ => SparkVersion.hasChecksumMismatch(status)))
    }
    def again = current.zip(statuses).exists { case (now, chosen) =>
      now != null && now.mapId != chosen.mapId
    }
    def mixed = ended.map(_.mapId).toSeq != statuses.map(_.mapId).toSeq
    def lostUpstream = upstreamIds.exists { id =>
      !shuffles.isFreed(id) && tracked.get(id)
        .exists(status => status.withMapStatuses(_ => status.mapStatusesDeleted.exists(_ != null)))
    }
    if (differs) Left(Reason(
      "recomputed_differently",
      "a map output that was computed again is not the one that it was before"
    ))
    else if (!rowsAreChecked && (mixed || again || lostUpstream)) Left(Reason(
      "recomputed_unchecked",
      "map outputs were computed again, and without " +
        "spark.sql.shuffle.orderIndependentChecksum.enabled Spark cannot tell whether they are alike"
    ))
    else Right(())
  }
}

private[phoebe] object MapOutputs {

  def apply(dependency: ShuffleDependency[_, _, _], shuffles: CheckpointedShuffles): MapOutputs =
    new MapOutputs(
      dependency.shuffleId,
      upstream(dependency.rdd),
      SparkVersion.checksRows(dependency),
      shuffles
    )

  /** The shuffles that an RDD is computed from. */
  private def upstream(rdd: RDD[_]): Set[Int] = {
    val found = mutable.Set.empty[Int]
    val seen = mutable.Set.empty[Int]
    def walk(rdd: RDD[_]): Unit = if (seen.add(rdd.id)) rdd.dependencies.foreach {
      case shuffle: ShuffleDependency[_, _, _] =>
        found += shuffle.shuffleId
        walk(shuffle.rdd)
      case other => walk(other.rdd)
    }
    walk(rdd)
    found.toSet
  }
}
