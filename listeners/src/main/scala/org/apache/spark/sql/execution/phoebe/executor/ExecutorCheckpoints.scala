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
 * The checkpoints' side of one executor (in local mode: of the driver acting as one): which
 * checkpointed shuffles are written and read here, and where each of them stands.
 *
 * A reader of local files holds a lease while its task runs; once the driver has switched a shuffle
 * to the store, and the last lease has ended, it is told so, and frees the files everywhere.
 */
final class ExecutorCheckpoints(env: SparkEnv) extends Logging {
  private val shuffles = new ConcurrentHashMap[Int, LocalShuffle]()
  private val driver = RpcUtils.makeDriverRef(CheckpointMessages.Driver, env.conf, env.rpcEnv)
  private val uploads = new UploadPool(env)
  private val self =
    env.rpcEnv.setupEndpoint(ExecutorCheckpoints.EndpointName, new Endpoint(env.rpcEnv))

  /**
   * What this executor knows of one shuffle. State and readers are guarded by the object itself; while
   * the driver is asked nothing is: what it says of the shuffle itself must be heard meanwhile.
   */
  private final class LocalShuffle(val id: Int) {
    var state: Option[ShuffleState] = None
    var readers = 0

    /** The map stage was over before the driver had answered. */
    var flushed = false

    /** One task asks, others wait for the answer. */
    val asking = new AtomicReference[CompletableFuture[ShuffleState]]()
    val queue = new AtomicReference[UploadQueue]()

    def closeQueue(): Unit = Option(queue.get()).foreach(_.close())

    def stored: Option[Stored] = state.collect { case stored: Stored => stored }
  }

  private def shuffle(id: Int): LocalShuffle =
    shuffles.computeIfAbsent(id, new LocalShuffle(_))

  /** Files are freed also where no checkpointed shuffle was met: those of stages upstream of one. */
  private def greet(): Unit = ask[java.lang.Boolean](driver, Hello(env.executorId), self)

  /** Joins if need be: one question to the driver for each shuffle that is met here. */
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
          } // another's task may have been killed
        case None => joined(local)
      }
    }

  private def askAgain(local: LocalShuffle): ShuffleState =
    ask[ShuffleState](driver, Join(local.id, env.executorId), self)

  /** The driver's answer; what it has said by itself since it gave it is newer. */
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

  /** Leaves a map output to be uploaded; returns at once. */
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
        // Until the driver has answered nothing is uploaded; behind other uploads this one could be
        // given up and not hear of it.
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
   * A task is about to read a shuffle. Unless all of it is in the store already, local files that it
   * may meet stay until the task ends.
   *
   * @return
   *   where the store's part is
   */
  def reading(shuffleId: Int, context: TaskContext): Option[Stored] = {
    val local = shuffle(shuffleId)
    val known = local.synchronized {
      local.state match {
        case Some(state @ (_: Stored | Ordinary)) => Some(state)
        case _ =>
          // Counted first: the driver may have heard of this executor although its answer did not come.
          // If it has not either, files can go under the reader; Spark then computes their outputs again.
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

  /** Where the store's part of a shuffle is, for blocks that the map output tracker locates there. */
  def stored(shuffleId: Int): Option[Stored] = {
    val local = shuffle(shuffleId)
    // Without it the tracker was ahead of the driver's word to us: ask again.
    storedIn(joined(local)).orElse(storedIn(heard(local, askAgain(local))))
  }

  /**
   * The driver is to know, before Spark is told, that an output in the store cannot be read.
   *
   * @return
   *   whether it can be computed
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

  /** Locations that this executor has cached are older than the switch. */
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

  /** Also where only readers have met the shuffle so far: a stage that is retried may write here. */
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
    // Thousands of names, perhaps: readers do not wait for them.
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

  /** This executor's; a new one after a new SparkContext in the same process. */
  def get: ExecutorCheckpoints = {
    val env = SparkEnv.get
    val known = current
    if (known != null && (known._1 eq env)) known._2
    else synchronized {
      if (current == null || (current._1 ne env)) current = env -> new ExecutorCheckpoints(env)
      current._2
    }
  }

  /** The executor starts. In local mode the driver knows itself soon enough. */
  def greet(): Unit =
    if (SparkEnv.get.executorId != SparkContext.DRIVER_IDENTIFIER) get.greet()

  private def stopped(checkpoints: ExecutorCheckpoints): Unit = synchronized {
    if (current != null && (current._2 eq checkpoints)) current = null
  }
}

/**
 * Where a checkpoint is written and read, for tasks.
 *
 * @param restored whether another application wrote it: then damage leaves a tombstone, so that the
 *                 next run does not meet it
 * @param held the bytes of its packs by file name, where the driver holds them
 */
final case class CheckpointSource(
    place: CheckpointPlace,
    conf: Broadcast[SerializableConfiguration],
    restored: Boolean,
    held: Option[Broadcast[PackReader.PackBytes]] = None
)
