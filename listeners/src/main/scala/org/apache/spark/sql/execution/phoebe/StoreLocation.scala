package org.apache.spark.sql.execution.phoebe

import org.apache.spark.storage.BlockManagerId

/**
 * The place in Spark's map output tracker that means "in the checkpoint store".
 *
 * A block manager id that no executor ever has, so losing executors and hosts never unregisters it.
 * Each map output has one of its own: when a fetch failure is reported, Spark takes everything at
 * that executor (and, with an external shuffle service, at that host) for lost; so damage to one
 * file costs one map output.
 */
private[phoebe] object StoreLocation {
  private val Prefix = "phoebe-store-"

  def apply(shuffleId: Int, mapIndex: Int): BlockManagerId = {
    val name = s"$Prefix$shuffleId-$mapIndex"
    BlockManagerId(name, name, 1)
  }

  def matches(location: BlockManagerId): Boolean = isStoreHost(location.executorId)

  def isStoreHost(host: String): Boolean = host.startsWith(Prefix)
}
