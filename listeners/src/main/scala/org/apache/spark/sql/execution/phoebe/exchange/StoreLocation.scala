// In Spark's package for MapOutputTrackerMaster (private[spark]).
package org.apache.spark.sql.execution.phoebe.exchange

import org.apache.spark.{MapOutputTrackerMaster, SparkEnv}
import org.apache.spark.storage.BlockManagerId

/**
 * The location in Spark's map output tracker that means "in the checkpoint store".
 *
 * It is a block manager id that no executor ever has, so the loss of executors and hosts never
 * unregisters it. Each shuffle has two locations, with half of its map outputs each. On a fetch failure
 * Spark takes everything at that executor (and, with an external shuffle service, at that host) for
 * lost. If every output had its own location, each damaged output would cost a stage attempt, and Spark
 * gives up after four. With two locations, one failure costs half of the outputs, and two failures
 * recompute them all.
 */
private[phoebe] object StoreLocation {
  private val Prefix = "phoebe-store-"
  private val PerShuffle = 2

  /** The driver's map output tracker. */
  def tracker: MapOutputTrackerMaster =
    SparkEnv.get.mapOutputTracker.asInstanceOf[MapOutputTrackerMaster]

  def apply(shuffleId: Int, mapIndex: Int): BlockManagerId = {
    val name = nameOf(shuffleId, mapIndex % PerShuffle)
    BlockManagerId(name, name, 1)
  }

  /** The executor ids of a shuffle's locations. */
  def all(shuffleId: Int): Seq[String] = (0 until PerShuffle).map(nameOf(shuffleId, _))

  private def nameOf(shuffleId: Int, number: Int) = s"$Prefix$shuffleId-$number"

  def matches(location: BlockManagerId): Boolean = isStoreHost(location.executorId)

  def isStoreHost(host: String): Boolean = host.startsWith(Prefix)
}
