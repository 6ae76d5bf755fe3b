// In Spark's package for RpcEndpointRef (private[spark]).
package org.apache.spark.sql.execution.phoebe.driver

import java.lang.ref.WeakReference
import java.util.concurrent.ConcurrentHashMap

import scala.jdk.CollectionConverters._

import org.apache.spark.rpc.RpcEndpointRef
import org.apache.spark.storage.BlockManagerId
import org.apache.spark.sql.execution.phoebe.exchange.{RestoredOutputs, StoreLocation}
import org.apache.spark.sql.execution.phoebe.rpc.CheckpointMessages._
import phoebe.Reason

/** A shuffle of this application whose outputs are, or may come to be, in the store. */
trait CheckpointedShuffle {
  def executionId: Long

  /** Whether nothing will be written for it any more. */
  def isOver: Boolean

  /** Whether nobody can ask for the shuffle any more. */
  def isForgotten(shuffleId: Int): Boolean = !StoreLocation.tracker.containsShuffle(shuffleId)

  def isStored: Boolean

  /** Whether its map stage is over and a commit may yet come. */
  def isUploading: Boolean

  /** Whether the store is being told so. */
  def isCommitting: Boolean
  def join(executorId: String, executor: RpcEndpointRef): ShuffleState

  /** The executors that write or read it, by id. */
  def executors: Map[String, RpcEndpointRef]
  def executorLost(executorId: String): Unit
  def drained(executorId: String): Unit

  /** @return whether further uploads are welcome */
  def uploaded(upload: Upload): Boolean
  def abandon(reason: Reason): Unit

  /** Files of these map outputs have come to lie elsewhere, and Spark has noted it. */
  def migrated(mapIds: Set[Long]): Unit = ()
}

/**
 * A shuffle that an earlier application wrote: in the store from the beginning. It is known for as long
 * as a plan holds it, whatever Spark's clean-up has removed.
 */
final class RestoredShuffle(
    override val executionId: Long,
    stored: Stored,
    restored: RestoredOutputs
) extends CheckpointedShuffle {
  private val held = new WeakReference(restored)

  def outputs: Option[RestoredOutputs] = Option(held.get)
  override def isForgotten(shuffleId: Int): Boolean = outputs.isEmpty
  private val joined = new ConcurrentHashMap[String, RpcEndpointRef]()

  override def isOver: Boolean = true
  override def isStored: Boolean = outputs.forall(_.isInStore)
  override def isUploading: Boolean = false
  override def isCommitting: Boolean = false
  override def join(executorId: String, executor: RpcEndpointRef): ShuffleState = {
    joined.put(executorId, executor)
    stored
  }
  override def executors: Map[String, RpcEndpointRef] = joined.asScala.toMap
  override def executorLost(executorId: String): Unit = joined.remove(executorId)
  override def drained(executorId: String): Unit = ()
  override def uploaded(upload: Upload): Boolean = false
  override def abandon(reason: Reason): Unit = ()
}

/** The application's checkpointed shuffles by shuffle id, on the driver. */
final class CheckpointedShuffles {
  private val shuffles = new ConcurrentHashMap[Int, CheckpointedShuffle]()
  private val known = new ConcurrentHashMap[String, RpcEndpointRef]()

  /** Executors that are gone. */
  private val lost = ConcurrentHashMap.newKeySet[String]()

  /** Shuffles upstream whose outputs were taken away on purpose. */
  private val withoutOutputs = ConcurrentHashMap.newKeySet[Int]()

  def freed(shuffleId: Int): Unit = withoutOutputs.add(shuffleId)
  def isFreed(shuffleId: Int): Boolean = withoutOutputs.contains(shuffleId)

  /** Map outputs whose files Spark has moved, by shuffle, until that is looked at. */
  private val moved = new ConcurrentHashMap[Int, Set[Long]]()

  /**
   * Spark has moved the files of a map output, from an executor that is being decommissioned.
   *
   * @return
   *   whether that is to be looked at
   */
  def moved(shuffleId: Int, mapId: Long): Boolean = shuffles.containsKey(shuffleId) && {
    moved.merge(shuffleId, Set(mapId), _ ++ _)
    true
  }

  /** Looks at what has been moved. What could not be read in the store is read where it is now. */
  def lookAtMoved(): Unit = moved.keySet.asScala.toSeq.foreach { id =>
    val mapIds = Option(moved.remove(id)).getOrElse(Set.empty[Long])
    get(id).filterNot(s => unreadable.containsKey(s.executionId)).foreach(_.migrated(mapIds))
  }

  /** Places in the store that could not be read, by execution. */
  private val unreadable = new ConcurrentHashMap[Long, Set[BlockManagerId]]()

  def put(shuffleId: Int, shuffle: CheckpointedShuffle): Unit = shuffles.put(shuffleId, shuffle)
  def get(shuffleId: Int): Option[CheckpointedShuffle] = Option(shuffles.get(shuffleId))
  def all: Seq[CheckpointedShuffle] = shuffles.values.asScala.toSeq
  def of(executionId: Long): Seq[CheckpointedShuffle] = all.filter(_.executionId == executionId)

  /** An execution's restored shuffles. */
  def restored(executionId: Long): Seq[RestoredOutputs] =
    of(executionId).collect { case restored: RestoredShuffle => restored.outputs }.flatten

  def greeted(executorId: String, executor: RpcEndpointRef): Unit = {
    known.put(executorId, executor)
    dropIfLost(executorId)
  }

  /** An executor meets a shuffle. */
  def join(shuffleId: Int, executorId: String, executor: RpcEndpointRef): ShuffleState = {
    val state = get(shuffleId).fold[ShuffleState](Ordinary)(_.join(executorId, executor))
    dropIfLost(executorId)
    state
  }

  /** Its word may be heard after Spark's that it is gone, and nothing is to wait for it then. */
  private def dropIfLost(executorId: String): Unit =
    if (lost.contains(executorId)) executorLost(executorId)

  /** Another one may have the id of one that is gone: after a standalone master's recovery. */
  def executorAdded(executorId: String): Unit = lost.remove(executorId)

  def executorLost(executorId: String): Unit = {
    lost.add(executorId)
    known.remove(executorId)
    all.foreach(_.executorLost(executorId))
  }

  /** All executors that live, as far as they are known: by their greeting, or by a shuffle. */
  def executors: Map[String, RpcEndpointRef] = known.asScala.toMap ++ all.flatMap(_.executors)

  /**
   * An output in the store could not be read. Spark computes it again, and all that was at the same
   * location; each location that fails costs the reading stage an attempt, of which it has four. So
   * at an execution's second one, the store counts as out of order for it: all that it has there
   * is computed at once. What another application wrote is computed as a whole, so it fails once; what
   * would come out otherwise waits for a failure of its own.
   *
   * @return
   *   whether it can be computed
   */
  def unreadable(shuffleId: Int, mapIndex: Int, why: String): Boolean =
    get(shuffleId).forall { shuffle =>
      val (place, computes) = shuffle match {
        case restored: RestoredShuffle =>
          StoreLocation(shuffleId, 0) -> restored.outputs.forall(_.unreadable(why))
        case _ => StoreLocation(shuffleId, mapIndex) -> true
      }
      val failed =
        unreadable.merge(shuffle.executionId, Set(place), (known, more) => known ++ more)
      if (failed.size > 1) {
        shuffles.asScala.foreach {
          case (id, own: CheckpointAttempt) if own.executionId == shuffle.executionId =>
            StoreLocation.all(id).foreach(StoreLocation.tracker.removeOutputsOnExecutor)
          case (_, other: RestoredShuffle) if other.executionId == shuffle.executionId =>
            // Another one may be whole, and to roll back what has read it may fail the query.
            other.outputs.filter(_.isReproducible).foreach(_.unreadable(why))
          case _ =>
        }
      }
      computes
    }

  /**
   * A boundary that an execution restored is computed after all, with other rows, and what has read it is
   * rolled back. What the execution has written may come from both: nothing of it is for later runs.
   */
  def rolledBack(executionId: Long): Unit = all.foreach {
    case own: CheckpointAttempt if own.executionId == executionId => own.rolledBack()
    case _ =>
  }

  /**
   * Forgets the shuffles that Spark has forgotten (its cleaner works as the garbage collector finds
   * them). Those that are still being uploaded stay: their bytes have links of their own.
   *
   * @return
   *   the forgotten ones
   */
  def sweep(): Seq[CheckpointedShuffle] = {
    val forgotten = shuffles.asScala.toSeq.filter { case (id, shuffle) =>
      shuffle.isOver && shuffle.isForgotten(id)
    }
    forgotten.foreach { case (id, shuffle) =>
      shuffles.remove(id)
      shuffle.executors.values.foreach(_.send(encode(Forget(id))))
    }
    withoutOutputs.removeIf(id => !StoreLocation.tracker.containsShuffle(id))
    unreadable.keySet.retainAll(all.map(_.executionId).asJavaCollection)
    forgotten.map(_._2)
  }
}
