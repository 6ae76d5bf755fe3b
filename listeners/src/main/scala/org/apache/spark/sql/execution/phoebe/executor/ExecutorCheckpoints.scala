// In Spark's package for RpcEndpoint, RpcUtils, MapOutputTrackerWorker (private[spark]).
package org.apache.spark.sql.execution.phoebe.executor

import java.util.concurrent.{CompletableFuture, ConcurrentHashMap, ExecutionException}
import java.util.concurrent.atomic.AtomicReference

import scala.util.control.NonFatal

import org.apache.spark.{
  MapOutputTrackerWorker,
  SparkContext,
  SparkEnv,
  SparkException,
  TaskContext
}
import org.apache.spark.broadcast.Broadcast
import org.apache.spark.internal.Logging
import org.apache.spark.rpc.{IsolatedThreadSafeRpcEndpoint, RpcCallContext, RpcEnv}
import org.apache.spark.util.{RpcUtils, SerializableConfiguration}
import org.apache.spark.sql.execution.phoebe.rpc.CheckpointMessages
import org.apache.spark.sql.execution.phoebe.rpc.CheckpointMessages._
import phoebe.FailSafe
import phoebe.executor.{UploadPool, UploadQueue}
import phoebe.store.{CheckpointPlace, PackReader, RangeFetcher}

/**
 * The checkpoint side of one executor (in local mode, of the driver acting as one): the checkpointed
 * shuffles that are written and read here, and the state of each.
 *
 * A reader of local files holds a lease while its task runs. When the driver has switched a shuffle to
 * the store and the last lease has ended, the executor reports that, and the driver frees the files
 * everywhere.
 */
final class ExecutorCheckpoints(env: SparkEnv) extends Logging {
  private val shuffles = new ConcurrentHashMap[Int, LocalShuffle]()
  private val driver = RpcUtils.makeDriverRef(CheckpointMessages.Driver, env.conf, env.rpcEnv)
  private val uploads = new UploadPool(env)
  private val self =
    env.rpcEnv.setupEndpoint(ExecutorCheckpoints.EndpointName, new Endpoint(env.rpcEnv))

  /**
   * The state of one shuffle on this executor. State and readers are guarded by the object itself. The
   * lock is not held during a call to the driver, whose notifications must still be handled.
   */
  private final class LocalShuffle(val id: Int) {
    var state: Option[ShuffleState] = None
    var readers = 0

    /** The map stage was over before the driver had answered. */
    var flushed = false

    /** The question that one task has sent to the driver; other tasks wait for its answer. */
    val asking = new AtomicReference[CompletableFuture[ShuffleState]]()
    val queue = new AtomicReference[UploadQueue]()

    def closeQueue(): Unit = Option(queue.get()).foreach(_.close())

    def stored: Option[Stored] = state.collect { case stored: Stored => stored }
  }

  private def shuffle(id: Int): LocalShuffle =
    shuffles.computeIfAbsent(id, new LocalShuffle(_))

  /** Tells the driver this executor's address: it may have to free files without joining a shuffle. */
  private def greet(): Unit = ask[java.lang.Boolean](driver, Hello(env.executorId), self)

  /** The shuffle's state; asks the driver once for each shuffle that is written or read here. */
  private def joined(local: LocalShuffle): ShuffleState =
    local.synchronized(local.state).getOrElse {
      val question = new CompletableFuture[ShuffleState]()
      if (local.asking.compareAndSet(null, question)) {
        try question.complete(heard(local, askAgain(local)))
        catch {
          case e: Throwable =>
            local.asking.set(null) // the next one asks
            question.completeExceptionally(e)
            throw e
        }
        question.get()
      } else Option(local.asking.get()) match {
        case Some(asked) =>
          try asked.get()
          catch {
            case _: ExecutionException => joined(local)
          } // the other task may have been killed
        case None => joined(local)
      }
    }

  private def askAgain(local: LocalShuffle): ShuffleState =
    ask[ShuffleState](driver, Join(local.id, env.executorId), self)

  /** Merges the driver's answer with notifications that arrived after it was sent; these are newer. */
  private def heard(local: LocalShuffle, answer: ShuffleState): ShuffleState = local.synchronized {
    val now = (local.state, answer) match {
      case (Some(known: Stored), heard: Stored) if heard.epoch > known.epoch => heard
      case (Some(known: Stored), _) => known
      case (_, heard: Stored) => heard
      case (Some(Ordinary), _) => Ordinary
      case (_, Uploading(place, over)) => Uploading(place, over || local.flushed)
      case (_, Ordinary) => Ordinary
    }
    now match {
      case stored: Stored if !local.state.exists(_ eq stored) => refreshLocations(stored)
      case _ =>
    }
    local.state = Some(now)
    now
  }

  /** Queues a map output for upload; returns at once. */
  def upload(shuffleId: Int, source: CheckpointSource, output: MapOutput): Unit = {
    val local = shuffle(shuffleId)
    val linked =
      try LinkedOutput.of(env, shuffleId, output)
      catch {
        case e: java.io.IOException =>
          uploads.run("report a map output that cannot be uploaded") {
            report(shuffleId, Upload.failed(Array(output), e))
          }
          return
      }
    if (local.queue.get() == null) {
      val made = new UploadQueue(
        uploads,
        source,
        report(shuffleId, _),
        upload => driver.send(encode(Uploaded(shuffleId, upload)))
      )
      if (local.queue.compareAndSet(null, made)) {
        // Nothing is uploaded until the driver has answered. Queued behind other uploads, this call
        // would come too late to learn that the checkpoint was given up.
        uploads.aside("join a checkpoint") {
          FailSafe[ShuffleState]("join a checkpoint", Ordinary)(joined(local)) match {
            case Uploading(_, stageIsOver) => made.start(stageIsOver)
            case _ => made.close()
          }
        }
      }
    }
    local.queue.get().add(linked)
  }

  private def report(shuffleId: Int, upload: Upload): Boolean =
    ask[Boolean](driver, Uploaded(shuffleId, upload))

  /**
   * A task is about to read a shuffle. Unless the shuffle is in the store already, its local files are
   * kept until the task ends.
   *
   * @return
   *   the packs in the store, if there are any
   */
  def reading(shuffleId: Int, context: TaskContext): Option[Stored] = {
    val local = shuffle(shuffleId)
    val known = local.synchronized {
      local.state match {
        case Some(state @ (_: Stored | Ordinary)) => Some(state)
        case _ =>
          // Counted first: the driver may know this executor even if its answer was lost. If it does
          // not, files may be removed under the reader; Spark then recomputes their outputs.
          local.readers += 1
          None
      }
    }
    known match {
      case Some(state) => storedIn(state)
      case None =>
        var reads = true
        try {
          val state = joined(local)
          reads = state.isInstanceOf[Uploading]
          storedIn(state)
        } finally {
          if (reads) context.addTaskCompletionListener[Unit](_ => readerDone(local))
          else readerDone(local)
        }
    }
  }

  private def storedIn(state: ShuffleState): Option[Stored] =
    Some(state).collect { case stored: Stored => stored }

  /** The packs of a shuffle, for blocks that the map output tracker locates in the store. */
  def stored(shuffleId: Int): Option[Stored] = {
    val local = shuffle(shuffleId)
    // None: the tracker was updated before the driver's notification arrived, so ask again.
    storedIn(joined(local)).orElse(storedIn(heard(local, askAgain(local))))
  }

  /**
   * Tells the driver, before Spark is told, that an output in the store cannot be read.
   *
   * @return
   *   whether the output can be computed
   */
  def unreadable(shuffleId: Int, mapIndex: Int, why: String): Boolean =
    ask[java.lang.Boolean](driver, Unreadable(shuffleId, mapIndex, why), self)

  private def readerDone(local: LocalShuffle): Unit = {
    val drained = local.synchronized {
      local.readers -= 1
      local.readers == 0 && local.stored.isDefined
    }
    if (drained) driver.send(encode(Drained(local.id, env.executorId)))
  }

  private def switch(id: Int, stored: Stored): Unit = {
    val local = shuffle(id)
    val drained = local.synchronized {
      local.state = Some(stored)
      refreshLocations(stored)
      local.readers == 0
    }
    local.closeQueue()
    if (drained) driver.send(encode(Drained(id, env.executorId)))
  }

  /** Drops locations that this executor cached before the switch. */
  private def refreshLocations(stored: Stored): Unit = env.mapOutputTracker match {
    case worker: MapOutputTrackerWorker => worker.updateEpoch(stored.epoch)
    case _ => // in local mode the driver's own
  }

  private def free(id: Int, mapIds: Array[Long]): Long = {
    val resolver = LinkedOutput.resolver(env)
    mapIds.iterator.map { mapId =>
      val bytes = resolver.getDataFile(id, mapId).length()
      resolver.removeDataByMap(id, mapId)
      bytes
    }.sum
  }

  /** Flushes uploads. Noted also if the shuffle was only read here: a retried stage may write here. */
  private def flush(id: Int): Unit = Option(shuffles.get(id)).foreach { local =>
    local.synchronized {
      local.flushed = true
      local.state = local.state.map {
        case Uploading(place, _) => Uploading(place, stageIsOver = true)
        case other => other
      }
      Option(local.queue.get()).foreach(_.flush())
    }
  }

  private def close(id: Int): Unit = Option(shuffles.get(id)).foreach { local =>
    local.synchronized { local.state = Some(Ordinary) }
    // Outside the lock: there may be thousands of links to remove, and readers must not wait.
    local.closeQueue()
  }

  private def forget(id: Int): Unit =
    Option(shuffles.remove(id)).foreach(_.closeQueue())

  private final class Endpoint(override val rpcEnv: RpcEnv) extends IsolatedThreadSafeRpcEndpoint {
    override def receive: PartialFunction[Any, Unit] = { case bytes: Array[Byte] =>
      FailSafe.run("hear the driver") {
        decode(bytes) match {
          case Switch(id, stored) => switch(id, stored)
          case Flush(id) => flush(id)
          case Close(id) => close(id)
          case Forget(id) => forget(id)
          case other => logWarning(s"phoebe: a message that nobody expects: $other")
        }
      }
    }

    override def receiveAndReply(context: RpcCallContext): PartialFunction[Any, Unit] = {
      case bytes: Array[Byte] =>
        try {
          val Free(id, mapIds) = decode(bytes)
          context.reply(free(id, mapIds))
        } catch {
          case e @ (NonFatal(_) | _: LinkageError) =>
            context.sendFailure(new SparkException(s"phoebe: $e"))
        }
    }

    override def onStop(): Unit = FailSafe.run("stop uploads") {
      shuffles.keySet.forEach(id => forget(id))
      uploads.stop()
      RangeFetcher.stop()
      ExecutorCheckpoints.stopped(ExecutorCheckpoints.this)
    }
  }
}

object ExecutorCheckpoints {
  private val EndpointName = "phoebe-executor"
  @volatile private var current: (SparkEnv, ExecutorCheckpoints) = _

  /** This executor's instance; a new one for a new SparkContext in the same process. */
  def get: ExecutorCheckpoints = {
    val env = SparkEnv.get
    val known = current
    if (known != null && (known._1 eq env)) known._2
    else synchronized {
      if (current == null || (current._1 ne env)) current = env -> new ExecutorCheckpoints(env)
      current._2
    }
  }

  /** Called at the executor's start. Not needed in local mode, where the driver is the executor. */
  def greet(): Unit =
    if (SparkEnv.get.executorId != SparkContext.DRIVER_IDENTIFIER) get.greet()

  private def stopped(checkpoints: ExecutorCheckpoints): Unit = synchronized {
    if (current != null && (current._2 eq checkpoints)) current = null
  }
}

/**
 * A checkpoint's place, for the tasks that write and read it.
 *
 * @param restored whether another application wrote it: then damage leaves a tombstone, so that the
 *                 next run does not restore it
 * @param held the bytes of its packs by file name, if the driver holds them
 */
final case class CheckpointSource(
    place: CheckpointPlace,
    conf: Broadcast[SerializableConfiguration],
    restored: Boolean,
    held: Option[Broadcast[PackReader.PackBytes]] = None
)
