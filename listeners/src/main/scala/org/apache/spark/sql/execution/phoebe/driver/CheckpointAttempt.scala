// In Spark's package for MapStatus, RpcEndpointRef, SparkContext.statusStore (private[spark]).
package org.apache.spark.sql.execution.phoebe.driver

import scala.collection.mutable
import scala.util.control.NonFatal

import org.apache.spark.{ShuffleDependency, SPARK_VERSION}
import org.apache.spark.internal.Logging
import org.apache.spark.rpc.RpcEndpointRef
import org.apache.spark.scheduler.MapStatus
import org.apache.spark.sql.execution.SQLExecution
import org.apache.spark.sql.execution.metric.SQLMetrics
import org.apache.spark.storage.BlockManagerId
import org.apache.spark.sql.execution.phoebe.compat.SparkInternals
import org.apache.spark.sql.execution.phoebe.exchange.{
  CheckpointExchangeExec,
  CheckpointMetrics,
  StoreLocation
}
import org.apache.spark.sql.execution.phoebe.rpc.CheckpointMessages
import org.apache.spark.sql.execution.phoebe.rpc.CheckpointMessages._
import phoebe.{FailSafe, Reason}
import phoebe.driver.CheckpointRuntime
import phoebe.settings.PhoebeSettings
import phoebe.store.{CheckpointPlace, Manifest, ManifestPack, Pack, Tombstone}

/**
 * One attempt to turn a shuffle into a checkpoint, on the driver: it collects the executors' uploads,
 * commits, sends readers to the store and frees local files.
 *
 * The query never waits for any of this. The map stage's outputs are available as soon as they are
 * written, and are read from local files. When the last output has been uploaded too, the checkpoint is
 * committed, and the outputs' locations in the map output tracker are switched to the store. Tasks
 * that began before keep their local files (each executor holds a lease for its readers). When the
 * last lease has ended, the files are freed everywhere.
 *
 * {{{
 * Writing -> Uploading -> Committing -> Committed -> Freed
 *    \___________\____________\_______> Abandoned
 * }}}
 *
 * @param inputs
 *   checks the input files right before the commit, and returns their identity
 */
final class CheckpointAttempt(
    exchange: CheckpointExchangeExec,
    runtime: CheckpointRuntime,
    inputs: () => Either[Reason, String]
) extends CheckpointedShuffle
    with Logging {
  import CheckpointAttempt._

  private val sc = runtime.phoebe.sparkContext
  val place: CheckpointPlace = runtime.store.newAttempt(exchange.fingerprint)
  override val executionId: Long = exchange.executionId
  private val fingerprint = exchange.fingerprint
  private val queryStartedNs = runtime.running(executionId).fold(System.nanoTime())(_.startedNs)
  private val metrics = CheckpointMetrics.of(exchange)

  private var state: State = Writing
  private var shuffleId = -1
  private var numMaps = 0
  private var numPartitions = 0

  /** The plan's node. Dropped once its inputs have been freed, because it refers to the whole query. */
  private var node: Option[CheckpointExchangeExec] = Some(exchange)

  /** The map statuses at the end of the map stage. */
  private var ended: Array[MapStatus] = Array.empty
  private val joined = mutable.Map.empty[String, RpcEndpointRef]
  private val uploads = mutable.Map.empty[Long, (Pack, MapOutput)]
  private var copyNs = 0L

  /** From the query's start to the map stage's end. */
  private var workMs = 0L
  private var stored: Option[Stored] = None

  /** Executors that may still read local files. */
  private val undrained = mutable.Set.empty[String]
  private var located: Map[BlockManagerId, Array[Long]] = Map.empty

  /** The map output tracker sends new readers to the store. */
  private var switched = false

  /** The id of the map stage's RDD. */
  private var rddId = -1
  private var outputs: MapOutputs = _

  /** Called when the shuffle has its id. From now on its tasks may report. */
  def begin(dependency: ShuffleDependency[_, _, _]): Unit = synchronized {
    shuffleId = dependency.shuffleId
    numMaps = dependency.rdd.getNumPartitions
    numPartitions = dependency.partitioner.numPartitions
    rddId = dependency.rdd.id
    outputs = MapOutputs(dependency, runtime.shuffles)
  }

  override def isOver: Boolean = synchronized(state == Freed || state == Abandoned)
  override def isStored: Boolean = synchronized(stored.isDefined)
  override def isUploading: Boolean = synchronized {
    state == Uploading && ended.forall { status =>
      uploads.contains(status.mapId) || joined.contains(status.location.executorId)
    }
  }
  override def isCommitting: Boolean = synchronized(state == Committing)
  override def executors: Map[String, RpcEndpointRef] = synchronized(joined.toMap)

  override def join(executorId: String, executor: RpcEndpointRef): ShuffleState = synchronized {
    joined(executorId) = executor
    state match {
      case Writing | Uploading | Committing =>
        CheckpointMessages.Uploading(place, stageIsOver = state != Writing)
      case Committed | Freed => stored.get
      case Abandoned => Ordinary
    }
  }

  override def executorLost(executorId: String): Unit = {
    synchronized(joined.remove(executorId))
    drained(executorId)
  }

  override def uploaded(upload: Upload): Boolean = {
    val welcome = synchronized {
      val open = state == Writing || state == Uploading
      if (open && upload.error == null) {
        upload.maps.foreach(map => uploads(map.mapId) = upload.pack -> map)
        copyNs += upload.copyNs
      }
      open
    }
    if (!welcome) false
    else if (upload.error != null) {
      abandon(upload.error)
      false
    } else {
      commitIfWhole()
      true
    }
  }

  /** The map stage is over, and its outputs are registered. */
  def stageIsOver(): Unit = {
    val statuses = outputs.current
    val lost = statuses.count(_ == null) + math.max(0, numMaps - statuses.length)
    if (lost == 0) {
      val waiting = synchronized {
        if (state == Writing) {
          ended = statuses
          workMs = (System.nanoTime() - queryStartedNs) / 1000000
          state = Uploading
        }
        joined.values.toSeq
      }
      waiting.foreach(_.send(encode(Flush(shuffleId))))
      commitIfWhole()
    } else {
      abandon(Reason(
        "map_output_lost",
        s"$lost of $numMaps map outputs were lost before the commit",
        Map("lost" -> lost)
      ))
    }
  }

  /** Gives the checkpoint up; the query goes on with an ordinary shuffle. */
  override def abandon(reason: Reason): Unit = {
    val mine = synchronized {
      val open = state == Writing || state == Uploading || state == Committing
      if (open) state = Abandoned
      open
    }
    if (mine) {
      logWarning(s"phoebe: checkpoint abandoned, the query goes on: $reason")
      closeQuietly()
      tell("abandoned", "reason" -> reason.toJson)
    }
  }

  /** Its execution computes other rows from now on, see [[CheckpointedShuffles.rolledBack]]. */
  def rolledBack(): Unit = {
    abandon(RolledBack)
    // Readers in this application go on; no later application restores it.
    if (isStored) runtime.pool.execute { () =>
      Tombstone.write(place, sc.hadoopConfiguration, RolledBack.message)
    }
  }

  /** The map stage failed; Spark reports that. */
  def discard(): Unit =
    if (
      synchronized {
        val open = state == Writing
        if (open) state = Abandoned
        open
      }
    ) closeQuietly()

  private def closeQuietly(): Unit = {
    synchronized { node = None }
    executors.values.foreach(_.send(encode(Close(shuffleId))))
    // The store may be slow, and this may be one of the driver's RPC threads.
    // If the application ends, the next garbage collection removes the attempt.
    FailSafe.on(runtime.pool, "remove an attempt")(runtime.store.remove(place))
  }

  /**
   * The outputs to commit, one for each map task: those at the end of the stage or, where an executor was
   * lost before its upload, those that Spark recomputed. None if an upload is still missing. Either
   * output is right, because the stage is determinate: others are not checkpointed, and a stage that
   * turns out to be indeterminate is given up, see [[MapOutputs]].
   */
  private def winners(current: Array[MapStatus]): Option[Array[MapStatus]] =
    if (state != Uploading) None
    else if (ended.forall(status => uploads.contains(status.mapId))) Some(ended)
    else {
      val chosen = ended.indices.map { i =>
        Seq(ended(i), if (i < current.length) current(i) else null)
          .find(status => status != null && uploads.contains(status.mapId))
      }
      if (chosen.forall(_.isDefined)) Some(chosen.flatten.toArray) else None
    }

  private def allUploaded: Boolean =
    uploads.size >= numMaps && uploads.valuesIterator.map(_._2.mapIndex).toSet.size == numMaps

  private def commitIfWhole(): Unit = {
    // Not under this attempt's lock: Spark may hold the tracker's locks for long, to serialise statuses.
    val current =
      if (synchronized(state == Uploading && allUploaded)) outputs.current
      else Array.empty[MapStatus]
    val chosen = synchronized {
      val whole = winners(current)
      if (whole.isDefined) state = Committing
      // An output of a retried stage may be uploaded before Spark knows that its task is done.
      else if (state == Uploading && allUploaded) runtime.later(RecheckMs)(commitIfWhole())
      whole
    }
    chosen.foreach { statuses =>
      // Off the RPC threads: the store and the inputs' file system may be slow.
      FailSafe.on(runtime.pool, "commit")(commit(statuses))
    }
  }

  private def alike(statuses: Array[MapStatus]) =
    outputs.recomputedAlike(statuses, synchronized(ended))

  private def commit(statuses: Array[MapStatus]): Unit = {
    val committed =
      try alike(statuses).flatMap(_ => inputs()).map { read =>
          val manifest = manifestOf(statuses, read)
          runtime.store.commit(place, manifest)
          manifest
        }
      catch {
        case e @ (NonFatal(_) | _: LinkageError) =>
          Left(Reason(
            "commit_failed",
            s"the checkpoint could not be committed: $e",
            Map("error" -> e.toString)
          ))
      }
    committed match {
      case Left(reason) => abandon(reason)
      case Right(manifest) =>
        runtime.committed(place)
        alike(statuses).left.foreach(abandon)
        if (switch(statuses, manifest)) {
          runtime.stands(place)
          tell(
            "committed",
            "bytes" -> manifest.bytes,
            "rows" -> manifest.rows,
            "map_count" -> manifest.numMaps,
            "partitions" -> manifest.numPartitions,
            "copy_ms" -> copyNs / 1000000
          )
          logInfo(s"phoebe: checkpoint of ${manifest.bytes} bytes committed to $place")
          post(CheckpointMetrics.CopyTime -> copyNs / 1000000)
          post(CheckpointMetrics.BytesCopied -> manifest.bytes)
          freeIfDrained()
          freeUpstream()
          runtime.store.removeOthers(place, manifest)
        } else runtime.withdrawn(place) // given up while the manifest was being written
    }
  }

  /**
   * Sends new readers to the store; false if the attempt was given up meanwhile.
   *
   * Joining executors learn of the store before the tracker is changed, and then read in the store even
   * outputs that the tracker still locates on executors. The tracker's locks are not taken under this
   * attempt's lock, because the driver's RPC threads wait for the latter.
   */
  private def switch(statuses: Array[MapStatus], manifest: Manifest): Boolean = {
    val packs = manifest.packs.map(_.pack).toArray
    val mine = synchronized {
      val open = state == Committing
      if (open) {
        state = Committed
        stored = Some(Stored(place, packs, StoreLocation.tracker.getEpoch))
        undrained ++= joined.keys
        add(statuses)
      }
      open
    }
    if (mine) {
      val (epoch, replaced) = ShuffleFreeing.moveToStore(
        shuffleId,
        statuses,
        runtime.afterTold
      )
      val (answer, executors) = synchronized {
        add(replaced)
        stored = Some(Stored(place, packs, epoch))
        switched = true
        ended = Array.empty
        uploads.clear()
        (stored.get, joined.values.toSeq)
      }
      executors.foreach(_.send(encode(Switch(shuffleId, answer))))
    }
    mine
  }

  /** Notes the current locations of these outputs' local files, which will be freed. */
  private def add(statuses: Iterable[MapStatus]): Unit = {
    val local = statuses.filterNot(s => StoreLocation.matches(s.location))
    add(ShuffleFreeing.byLocation(local.map(s => s.location -> s.mapId).toSeq))
  }

  private def add(local: Map[BlockManagerId, Array[Long]]): Unit =
    local.foreach { case (where, mapIds) =>
      located += where -> (located.getOrElse(where, Array.empty[Long]) ++ mapIds).distinct
    }

  /**
   * Spark has moved the files of a decommissioned executor to another one (or to its fallback storage)
   * and has updated the tracker after the switch. Readers are sent back to the store, and the copies are
   * freed like the original files.
   */
  override def migrated(mapIds: Set[Long]): Unit =
    if (synchronized(switched)) {
      val moved = ShuffleFreeing.backToStore(
        shuffleId,
        mapIds,
        runtime.afterTold
      )
      val free = synchronized {
        if (state == Freed) moved
        else {
          add(moved)
          Map.empty[BlockManagerId, Array[Long]]
        }
      }
      if (free.nonEmpty) {
        val freed = ShuffleFreeing.own(sc, shuffleId, free, runtime.shuffles.executors)
        if (freed > 0) tellFreed(freed)
      }
    }

  override def drained(executorId: String): Unit = {
    if (synchronized(undrained.remove(executorId))) freeIfDrained()
  }

  private def freeIfDrained(): Unit = {
    val mine = synchronized {
      val free = state == Committed && switched && undrained.isEmpty
      if (free) state = Freed
      free
    }
    if (mine) FailSafe.on(runtime.pool, "free local files") {
      val where = synchronized(located)
      // Also executors that received files of a decommissioned one and never joined the shuffle.
      val who = runtime.shuffles.executors ++ executors
      val freed = ShuffleFreeing.own(sc, shuffleId, where, who)
      tellFreed(freed)
      logInfo(s"phoebe: $freed bytes of local files freed, they are in $place")
    }
  }

  /** If this fails, the checkpoint is kept, and the shuffles upstream stay until the query ends. */
  private def freeUpstream(): Unit =
    try
      FailSafe.run("free upstream") {
        synchronized(node).foreach { exchange =>
          if (duplicatesEnd()) {
            val freed = ShuffleFreeing.upstream(exchange)
            if (freed > 0) tellFreed(freed)
          }
        }
      }
    finally synchronized { node = None }

  /**
   * Waits for tasks of the boundary's stage that still run although all its outputs are committed
   * (speculative duplicates, outputs recomputed after the loss of an executor). They still read upstream,
   * and to Spark their missing files would look like a lost executor.
   *
   * @return
   *   whether all of them have ended
   */
  private def duplicatesEnd(): Boolean = {
    val rdd = synchronized(rddId)
    def running: Boolean =
      sc.statusStore.stageList(null).exists(s => s.rddIds.contains(rdd) && s.numActiveTasks > 0)
    val deadline = System.nanoTime() + DuplicatesNs
    while (running && System.nanoTime() < deadline) Thread.sleep(50)
    !running
  }

  private var freedBytes = 0L

  /** Reports the sum of freed bytes so far. The SQL tab gets the new bytes, as it adds them up itself. */
  private def tellFreed(bytes: Long): Unit = synchronized {
    freedBytes += bytes
    post(CheckpointMetrics.FreedBytes -> bytes)
    tell("freed", "freed_bytes" -> freedBytes)
  }

  private def post(value: (String, Long)): Unit = {
    val metric = metrics(value._1)
    metric.set(value._2)
    SQLMetrics.postDriverMetricUpdates(sc, executionId.toString, Seq(metric))
  }

  private def tell(event: String, fields: (String, Any)*): Unit =
    runtime.tell(executionId, fingerprint, event, Some(place), fields: _*)

  private def manifestOf(statuses: Array[MapStatus], read: String): Manifest = {
    val (held, maps) = synchronized {
      val found = statuses.map(status => uploads(status.mapId))
      (found.map(_._1).distinctBy(_.file), found.map(_._2))
    }
    Manifest(
      format = Manifest.Format,
      fingerprint = fingerprint,
      appId = sc.applicationId,
      appAttempt = sc.applicationAttemptId.getOrElse(""),
      appName = sc.appName,
      user = sc.sparkUser,
      executionId = executionId,
      sparkVersion = SPARK_VERSION,
      pluginVersion = PhoebeSettings.pluginVersion,
      createdAtMs = System.currentTimeMillis(),
      owner = runtime.store.owner,
      inputs = read,
      workMs = workMs,
      codec = SparkInternals.shuffleCodec(sc.conf),
      numMaps = numMaps,
      numPartitions = numPartitions,
      bytes = maps.map(_.bytes).sum,
      rows = maps.map(_.rows).sum,
      dataSizeBytes = maps.map(_.dataSize).sum,
      packs = held.map(ManifestPack.of).toSeq,
      mapIds = statuses.map(_.mapId).toSeq,
      statuses = MapStatuses.encode(statuses.toSeq)
    )
  }
}

object CheckpointAttempt {
  private val RolledBack = Reason(
    "rolled_back",
    "a restored boundary of the query had to be computed again, and gave other rows"
  )
  private val RecheckMs = 200L
  private val DuplicatesNs = 5L * 1000 * 1000 * 1000

  sealed private trait State
  private case object Writing extends State
  private case object Uploading extends State
  private case object Committing extends State
  private case object Committed extends State
  private case object Freed extends State
  private case object Abandoned extends State
}
