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

/** A shuffle of this application whose outputs are in the store or may be written there. */
trait CheckpointedShuffle {
  def executionId: Long

  /** Whether nothing more will be written for it. */
  def isOver: Boolean

  /** Whether no task can read the shuffle any more. */
  def isForgotten(shuffleId: Int): Boolean = !StoreLocation.tracker.containsShuffle(shuffleId)

  def isStored: Boolean

  /** Whether its map stage is over and a commit may still follow. */
  def isUploading: Boolean

  /** Whether its commit is under way. */
  def isCommitting: Boolean
  def join(executorId: String, executor: RpcEndpointRef): ShuffleState

  /** The executors that write or read it, by id. */
  def executors: Map[String, RpcEndpointRef]
  def executorLost(executorId: String): Unit
  def drained(executorId: String): Unit

  /** @return whether the executor should go on uploading */
  def uploaded(upload: Upload): Boolean
  def abandon(reason: Reason): Unit

  /** Spark has moved the files of these map outputs, and the tracker has the new locations. */
  def migrated(mapIds: Set[Long]): Unit = ()
}

/**
 * A shuffle that an earlier application wrote, in the store from the beginning. It is kept here as long
 * as a plan refers to it, even if Spark's clean-up has removed the shuffle.
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

  /** Executors that were lost. */
  private val lost = ConcurrentHashMap.newKeySet[String]()

  /** Shuffles upstream whose outputs were freed. */
  private val withoutOutputs = ConcurrentHashMap.newKeySet[Int]()

  def freed(shuffleId: Int): Unit = withoutOutputs.add(shuffleId)
  def isFreed(shuffleId: Int): Boolean = withoutOutputs.contains(shuffleId)

  /** Map outputs whose files Spark has moved, by shuffle, until they are handled. */
  private val moved = new ConcurrentHashMap[Int, Set[Long]]()

  /**
   * Notes that Spark has moved the files of a map output, from an executor that is being decommissioned.
   *
   * @return
   *   whether the shuffle is one of these, so that the move must be handled
   */
  def moved(shuffleId: Int, mapId: Long): Boolean = shuffles.containsKey(shuffleId) && {
    moved.merge(shuffleId, Set(mapId), _ ++ _)
    true
  }

  /** Handles moved files, except of executions that could not read the store: they use the files. */
  def lookAtMoved(): Unit = moved.keySet.asScala.toSeq.foreach { id =>
    val mapIds = Option(moved.remove(id)).getOrElse(Set.empty[Long])
    get(id).filterNot(s => unreadable.containsKey(s.executionId)).foreach(_.migrated(mapIds))
  }

  /** Store locations that could not be read, by execution. */
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

  /** An executor begins to write or read a shuffle. */
  def join(shuffleId: Int, executorId: String, executor: RpcEndpointRef): ShuffleState = {
    val state = get(shuffleId).fold[ShuffleState](Ordinary)(_.join(executorId, executor))
    dropIfLost(executorId)
    state
  }

  /** An executor's message may arrive after its loss; nothing may wait for it then. */
  private def dropIfLost(executorId: String): Unit =
    if (lost.contains(executorId)) executorLost(executorId)

  /** A new executor may have the id of a lost one, after a standalone master's recovery. */
  def executorAdded(executorId: String): Unit = lost.remove(executorId)

  def executorLost(executorId: String): Unit = {
    lost.add(executorId)
    known.remove(executorId)
    all.foreach(_.executorLost(executorId))
  }

  /** All living executors that have sent `Hello` or joined a shuffle. */
  def executors: Map[String, RpcEndpointRef] = known.asScala.toMap ++ all.flatMap(_.executors)

  /**
   * An output in the store could not be read. Spark recomputes it, with everything at the same location.
   * Each failed location costs the reading stage an attempt, of which it has four. So at an execution's
   * second failed location the store counts as failed for it, and everything that it has there is
   * recomputed at once. A restored shuffle is recomputed as a whole, so it fails once. If its rows might
   * differ, it is recomputed only when it fails itself.
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
            // Another checkpoint may be good, and rolling back its readers may fail the query.
            other.outputs.filter(_.isReproducible).foreach(_.unreadable(why))
          case _ =>
        }
      }
      computes
    }

  /**
   * A restored boundary of an execution is recomputed with other rows, and its readers are rolled back.
   * Checkpoints of the execution may have rows of both, so later runs must not restore them.
   */
  def rolledBack(executionId: Long): Unit = all.foreach {
    case own: CheckpointAttempt if own.executionId == executionId => own.rolledBack()
    case _ =>
  }

  /**
   * Forgets the shuffles that Spark has forgotten (its cleaner follows the JVM's garbage collector).
   * Those that are still being uploaded are kept: their files have hard links.
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
