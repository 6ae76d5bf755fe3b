package org.apache.spark.sql.execution.phoebe

import java.util.concurrent.ConcurrentHashMap

import scala.jdk.CollectionConverters._

import org.apache.spark.{MapOutputTrackerMaster, SparkEnv}
import org.apache.spark.rpc.RpcEndpointRef
import org.apache.spark.sql.execution.phoebe.CheckpointMessages._

/** A shuffle of this application whose outputs are, or may come to be, in the store. */
private[phoebe] trait CheckpointedShuffle {
  def executionId: Long

  /** Whether nothing will be written for it any more. */
  def isOver: Boolean

  def isStored: Boolean

  /** Whether its map stage is over and a commit may yet come. */
  def isUploading: Boolean
  def join(executorId: String, executor: RpcEndpointRef): ShuffleState
  def executors: Seq[RpcEndpointRef]
  def executorLost(executorId: String): Unit
  def drained(executorId: String): Unit

  /** @return whether further uploads are welcome */
  def uploaded(upload: Upload): Boolean
  def abandon(reason: Reason): Unit
}

/** A shuffle that an earlier application wrote: in the store from the beginning. */
private[phoebe] final class RestoredShuffle(
    override val executionId: Long,
    stored: Stored
) extends CheckpointedShuffle {
  private val joined = new ConcurrentHashMap[String, RpcEndpointRef]()

  override def isOver: Boolean = true
  override def isStored: Boolean = true
  override def isUploading: Boolean = false
  override def join(executorId: String, executor: RpcEndpointRef): ShuffleState = {
    joined.put(executorId, executor)
    stored
  }
  override def executors: Seq[RpcEndpointRef] = joined.values.asScala.toSeq
  override def executorLost(executorId: String): Unit = joined.remove(executorId)
  override def drained(executorId: String): Unit = ()
  override def uploaded(upload: Upload): Boolean = false
  override def abandon(reason: Reason): Unit = ()
}

/** The application's checkpointed shuffles by shuffle id, on the driver. */
private[phoebe] final class CheckpointedShuffles {
  private val shuffles = new ConcurrentHashMap[Int, CheckpointedShuffle]()

  def put(shuffleId: Int, shuffle: CheckpointedShuffle): Unit = shuffles.put(shuffleId, shuffle)
  def get(shuffleId: Int): Option[CheckpointedShuffle] = Option(shuffles.get(shuffleId))
  def all: Seq[CheckpointedShuffle] = shuffles.values.asScala.toSeq
  def of(executionId: Long): Seq[CheckpointedShuffle] = all.filter(_.executionId == executionId)

  /**
   * Forgets the shuffles that Spark has forgotten (its cleaner works as the garbage collector finds
   * them). Those that are still being uploaded stay: their bytes have links of their own.
   */
  def sweep(): Unit = {
    val tracker = SparkEnv.get.mapOutputTracker.asInstanceOf[MapOutputTrackerMaster]
    shuffles.asScala.foreach { case (id, shuffle) =>
      if (shuffle.isOver && !tracker.containsShuffle(id)) {
        shuffles.remove(id)
        shuffle.executors.foreach(_.send(encode(Forget(id))))
      }
    }
  }
}
