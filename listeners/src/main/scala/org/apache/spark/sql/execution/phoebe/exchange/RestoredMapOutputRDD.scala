// In Spark's package for ShuffleStatus, RDD.isBarrier, SparkContext.dagScheduler (private[spark]).
package org.apache.spark.sql.execution.phoebe.exchange

import java.util.Properties

import scala.collection.mutable
import scala.util.control.NonFatal

import org.apache.spark.{
  Dependency,
  NarrowDependency,
  Partition,
  ShuffleStatus,
  SparkContext,
  TaskContext
}
import org.apache.spark.internal.Logging
import org.apache.spark.rdd.RDD
import org.apache.spark.shuffle.MetadataFetchFailedException
import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.execution.SQLExecution
import org.apache.spark.scheduler.phoebe.MapStages
import org.apache.spark.sql.execution.phoebe.compat.QueryContext
import org.apache.spark.sql.execution.phoebe.driver.{MapStatuses, ShuffleFreeing}
import org.apache.spark.sql.execution.phoebe.executor.ExecutorCheckpoints
import phoebe.{FailSafe, Reason}
import phoebe.driver.CheckpointRuntime
import phoebe.exchange.Reproducible
import phoebe.fingerprint.Inputs
import phoebe.store.CommittedCheckpoint

/**
 * The map side of a restored shuffle. It does not run as long as the checkpoint can be read, because
 * all its map outputs are registered. When the checkpoint cannot be read any more, this RDD gets the
 * boundary's original input as its dependency ([[RestoredOutputs]]), with as many map outputs.
 */
private[phoebe] final class RestoredMapOutputRDD(
    sc: SparkContext,
    numMaps: Int,
    directory: String,
    @transient val outputs: RestoredOutputs
) extends RDD[Product2[Int, InternalRow]](sc, Nil) {
  import RestoredMapOutputRDD._

  private var shuffleId = -1
  @transient private var input: Option[RDD[Product2[Int, InternalRow]]] = None

  def of(shuffleId: Int): Unit = this.shuffleId = shuffleId

  /** Sets the input to compute from. Called on the scheduler's thread, while no task set is created. */
  def computeFrom(rows: RDD[Product2[Int, InternalRow]]): Unit = {
    val below = rows.partitions
    partitions.foreach { case mine: RestoredMapPartition =>
      mine.below = share(mine.index, below.length).map(below(_)).toArray
    }
    input = Some(rows)
    clearDependencies() // so that Spark asks for them again
  }

  /** The partitions of the input that become one map output. */
  private def share(map: Int, below: Int): Range =
    (map.toLong * below / numMaps).toInt until ((map + 1).toLong * below / numMaps).toInt

  override protected def getPartitions: Array[Partition] =
    Array.tabulate[Partition](numMaps)(new RestoredMapPartition(_))

  /** Computed on the driver; tasks get them serialized. */
  override protected def getDependencies: Seq[Dependency[_]] = input.toSeq.map { rows =>
    val below = rows.getNumPartitions
    new NarrowDependency[Product2[Int, InternalRow]](rows) {
      override def getParents(map: Int): Seq[Int] = share(map, below)
    }
  }

  /**
   * Spark's scheduler calls this on its own thread: when it creates the shuffle's map stage, and when an
   * output could not be fetched, before it handles the failure.
   */
  override private[spark] def isBarrier(): Boolean = {
    if (outputs != null) outputs.beforeScheduling()
    false
  }

  override def compute(
      split: Partition,
      context: TaskContext
  ): Iterator[Product2[Int, InternalRow]] = dependencies.headOption match {
    case Some(dependency) =>
      val rows = dependency.rdd.asInstanceOf[RDD[Product2[Int, InternalRow]]]
      split.asInstanceOf[RestoredMapPartition].below.iterator.flatMap(rows.iterator(_, context))
    case None =>
      // The outputs are gone, and the driver has not planned the input yet. So this task ends with
      // a fetch failure, like any reader. Spark's scheduler then calls isBarrier, and the stage waits.
      val computes = ExecutorCheckpoints.get.unreadable(shuffleId, 0, "its map outputs are gone")
      if (!computes) throw new DamagedCheckpointException(directory)
      throw new MetadataFetchFailedException(
        shuffleId,
        -1,
        s"phoebe: the input of the restored checkpoint $directory is being planned"
      )
  }
}

private[phoebe] object RestoredMapOutputRDD {

  /** @param index the map output's index; `below` are the partitions that it is computed from */
  final class RestoredMapPartition(override val index: Int) extends Partition {
    var below: Array[Partition] = Array.empty
  }
}

/**
 * The source of a restored shuffle's outputs, on the driver: the store or, when that cannot be read,
 * the boundary's original input.
 *
 * {{{
 * InStore -> Unreadable -> Planning -> Computed
 *                 \___________/\-----> Lost
 * InStore, Unreadable, Computed -> Withheld -> Looking -> InStore, Planning
 * }}}
 *
 * All changes but the first happen on the scheduler's thread. So Spark handles no event between the
 * removal of the outputs from the map output tracker and the parking of the stage.
 */
final class RestoredOutputs(
    exchange: RestoredExchangeExec,
    checkpoint: CommittedCheckpoint,
    runtime: CheckpointRuntime
) extends Logging {
  import RestoredOutputs._

  private val manifest = checkpoint.manifest
  private val sc = runtime.sparkContext
  private val scheduler = sc.dagScheduler

  /** The query's context. None: then the boundary cannot be computed later. */
  private val captured: Option[QueryContext] =
    FailSafe("keep a query's settings", Option.empty[QueryContext]) {
      Some(QueryContext.of(exchange.session))
    }

  private val isLinked =
    runtime.running(exchange.executionId).exists(_.isLinked(exchange.fingerprint))

  private var rdd: RestoredMapOutputRDD = _
  private var shuffleId = -1
  private var state: State = InStore
  private var plannings = 0
  private var why = ""
  private val readers = mutable.Set.empty[Int] // one for each time its map stage was created
  private var rolledBack: Option[DamagedCheckpointException] = None
  private val cleaning = new CleanedUp(exchange)
  private var withheld: Option[ShuffleStatus] = None
  private var wasStored = true

  /** Whether a reader took some of the map outputs of a reduce partition. */
  @volatile private var readInParts = false

  /** Registers its outputs before any task can read them. */
  def begin(rdd: RestoredMapOutputRDD, shuffleId: Int): Unit = synchronized {
    this.rdd = rdd
    this.shuffleId = shuffleId
    rdd.of(shuffleId)
    FailSafe.run("see whether Spark cleans up after a query")(cleaning.begin())
    register()
  }

  private def register(): Unit = {
    val status = new ShuffleStatus(manifest.numMaps)
    MapStatuses.of(manifest).zipWithIndex.foreach { case (output, i) =>
      output.updateLocation(StoreLocation(shuffleId, i))
      status.addMapOutput(i, output)
    }
    // In one step: readers see all of them or none.
    StoreLocation.tracker.shuffleStatuses.put(shuffleId, status)
  }

  def splits(): Unit = readInParts = true

  def isInStore: Boolean = synchronized(state == InStore)

  /** Whether recomputed rows are the same as those that were read before. */
  def isReproducible: Boolean = !readInParts && reproducible

  private lazy val reproducible =
    FailSafe("look at a restored boundary's rows", false)(Reproducible(exchange))

  /**
   * A reader could not read the store.
   *
   * @return
   *   whether the boundary will be computed; if not, it never will
   */
  def unreadable(reason: String): Boolean = synchronized {
    if (state == InStore) {
      // Rows that may differ must not be combined with those of a boundary that is still restored.
      if (canBeComputed && (!isLinked || isReproducible)) {
        state = Unreadable
        why = reason
        runtime.tell(
          exchange.executionId,
          exchange.fingerprint,
          "damaged",
          Some(checkpoint.place),
          "from_app_id" -> manifest.appId,
          "reason" -> Reason("unreadable", reason).toJson
        )
        runtime.restorer.refuse(checkpoint.place, Reason("unreadable", reason))
        logWarning(
          s"phoebe: the restored checkpoint ${checkpoint.place} cannot be read, " +
            s"its boundary is computed: $reason"
        )
      } else state = Lost
    }
    state != Lost
  }

  /** Spark's scheduler creates the map stage, or handles a failed fetch of one of its outputs. */
  def beforeScheduling(): Unit = if (MapStages.isSchedulerThread(scheduler)) {
    FailSafe.run("schedule a restored boundary") {
      synchronized {
        state match {
          case InStore | Unreadable | Computed if isNew && cleaning.isOver => withhold()
          case Unreadable if mayPlan => planInput()
          case InStore | Unreadable =>
            if (isNew) created()
            // If the shuffle was removed from the tracker, the store still has it.
            if (!StoreLocation.tracker.containsShuffle(shuffleId)) register()
          case Planning => MapStages.park(scheduler, shuffleId)
          case Withheld | Looking => needed()
          case Computed => if (isNew) created()
          case Lost =>
        }
      }
    }
  }

  private def isNew = !MapStages.exists(scheduler, shuffleId)

  /** A job's map stage is being created. */
  private def created(): Unit = {
    readers += MapStages.jobsSoFar(scheduler)
    if (cleaning.mayFollow) MapStages.onSchedulerThread(scheduler)(noteUsers())
  }

  private def noteUsers(): Unit = FailSafe.run("note who reads a restored boundary") {
    synchronized(cleaning.usedBy(MapStages.executions(scheduler, shuffleId)))
  }

  /**
   * Without a checkpoint, Spark's clean-up would have removed the outputs, and the next reader would
   * read the inputs as they are by now. So no outputs are shown until the inputs were looked at. That
   * waits until a stage needs them: a reader's own outputs may still be there.
   */
  private def withhold(): Unit = {
    wasStored = state == InStore
    withheld = StoreLocation.tracker.shuffleStatuses.put(shuffleId, new WithheldOutputs)
    state = Withheld
    // What ended queries have read is not combined with what follows.
    readers.clear()
    readers += MapStages.jobsSoFar(scheduler)
  }

  /** Spark's scheduler asks for the outputs: mostly it would submit the map stage right after this. */
  private final class WithheldOutputs extends ShuffleStatus(manifest.numMaps) {
    override def numAvailableMapOutputs: Int = {
      if (MapStages.isSchedulerThread(scheduler)) {
        FailSafe.run("look at a restored boundary's inputs again")(RestoredOutputs.this.needed())
      }
      super.numAvailableMapOutputs
    }
  }

  private def needed(): Unit = synchronized {
    if ((state == Withheld || state == Looking) && !isNew) {
      MapStages.park(scheduler, shuffleId)
      if (state == Withheld) lookAgain()
    }
  }

  private def lookAgain(): Unit = {
    val stage = MapStages.id(scheduler, shuffleId)
    runtime.plannings.execute { () =>
      // The waiting stage must be notified, whatever happens here.
      val changed =
        try lookAtInputs()
        catch { case _: Throwable => unseen }
      MapStages.onSchedulerThread(scheduler) {
        synchronized {
          // Its jobs may be over. Another one wants a look of its own: this one may be older.
          if (isNew) state = Withheld
          else if (MapStages.id(scheduler, shuffleId) != stage) lookAgain()
          else {
            try lookedAgain(changed)
            catch {
              case e @ (NonFatal(_) | _: LinkageError | _: StackOverflowError) =>
                state = Lost
                MapStages.abort(scheduler, shuffleId, failure(s"it cannot be computed: $e"))
            }
          }
        }
      }
    }
    state = Looking
  }

  private def canBeComputed: Boolean = captured.isDefined && MapStages.mayRelease

  /** What is taken for an answer where there is none. */
  private def unseen: Option[Reason] = if (canBeComputed) Some(CleanedUp.reason) else None

  private def lookAtInputs(): Option[Reason] =
    // Boundaries that are restored together are computed together.
    if (canBeComputed && (!wasStored || isLinked)) Some(CleanedUp.reason)
    else {
      FailSafe("look at inputs again", unseen) {
        exchange.inputs.changedSince(manifest.inputs, runtime.lookTimeoutMs)
      }.filter(reason => canBeComputed || reason.code == Inputs.Changed)
    }

  private def lookedAgain(changed: Option[Reason]): Unit = {
    withheld match {
      case Some(outputs) => StoreLocation.tracker.shuffleStatuses.put(shuffleId, outputs)
      case None => register()
    }
    withheld = None
    cleaning.restart()
    noteUsers()
    changed match {
      case None =>
        state = InStore
        MapStages.resumeReaders(scheduler, shuffleId)
      case Some(reason) =>
        if (wasStored) FailSafe.run("tell that inputs have changed")(tellChanged(reason))
        why = reason.message
        plannings = 0
        planInput(mayDiffer = false)
    }
  }

  private def tellChanged(reason: Reason): Unit = {
    runtime.tell(
      exchange.executionId,
      exchange.fingerprint,
      "abandoned",
      Some(checkpoint.place),
      "from_app_id" -> manifest.appId,
      "reason" -> reason.toJson
    )
    logInfo(
      s"phoebe: the restored boundary of ${checkpoint.place} is computed for a later query: $reason"
    )
  }

  /**
   * If the rows may differ, all readers must be rolled back. Spark finds these by the map stage. If there
   * is no map stage now, planning waits for the next reader's failure.
   */
  private def mayPlan: Boolean = isReproducible || MapStages.exists(scheduler, shuffleId)

  /** @param mayDiffer whether readers have rows that must not be combined with computed ones */
  private def planInput(mayDiffer: Boolean = !isReproducible): Unit =
    try dropAndPlan(mayDiffer)
    catch {
      case e @ (NonFatal(_) | _: LinkageError) =>
        // The outputs may be gone already, and nothing would wake the waiting readers.
        state = Lost
        MapStages.abort(scheduler, shuffleId, failure(s"$why, and it cannot be computed: $e"))
        throw e
    }

  private def dropAndPlan(mayDiffer: Boolean): Unit = {
    val tracker = StoreLocation.tracker
    val dropped = tracker.shuffleStatuses.put(shuffleId, new ShuffleStatus(manifest.numMaps))
    dropped.foreach(ShuffleFreeing.forgetSerialized(_, runtime.afterTold))
    tracker.incrementEpoch()
    rolledBack = if (mayDiffer) Some(failure(why)) else None
    rolledBack.foreach { cause =>
      val wasRead = readers.size > 1
      def isRunning(id: Long) = SQLExecution.getQueryExecution(id) != null
      runtime.shuffles.rolledBack(exchange.executionId)
      MapStages.rollBack(scheduler, shuffleId, cause, wasRead, isRunning)
    }
    val query = captured.get // without it the state is Lost
    val properties = MapStages.park(scheduler, shuffleId).getOrElse(query.properties)
    state = Planning
    plannings += 1
    runtime.plannings.execute(() => plan(query, properties))
    // Other outputs that are known to be unreadable would cost their reader an attempt each.
    runtime.shuffles.restored(exchange.executionId).foreach(_.planIfUnreadable())
  }

  private def planIfUnreadable(): Unit = synchronized {
    if (state == Unreadable && mayPlan) planInput()
  }

  private def plan(query: QueryContext, properties: Properties): Unit = {
    // The waiting stage must be notified, whatever happens here.
    val planned =
      try Right(OriginalInput.mapSide(exchange, query, properties))
      catch { case e: Throwable => Left(e) }
    def failed(e: Throwable): Unit = {
      // The query may just have ended; the next reader tries again.
      if (state != Computed) state = if (plannings < MaxPlannings) Unreadable else Lost
      logWarning(s"phoebe: the input of ${checkpoint.place} could not be planned", e)
      MapStages.abort(scheduler, shuffleId, failure(s"$why, and computing it failed: $e"))
    }
    MapStages.onSchedulerThread(scheduler) {
      synchronized {
        planned match {
          case Left(e) => failed(e)
          case Right(rows) =>
            try {
              rdd.computeFrom(rows)
              state = Computed
              MapStages.release(scheduler, shuffleId, rolledBack)
            } catch {
              case e @ (NonFatal(_) | _: LinkageError | _: StackOverflowError) => failed(e)
            }
        }
      }
    }
  }

  private def failure(reason: String) =
    new DamagedCheckpointException(s"${checkpoint.place} ($reason)")
}

object RestoredOutputs {
  private val MaxPlannings = 3

  sealed private trait State

  private case object InStore extends State
  private case object Unreadable extends State

  /** Not shown to Spark until the inputs have been looked at again. */
  private case object Withheld extends State
  private case object Looking extends State
  private case object Planning extends State
  private case object Computed extends State
  private case object Lost extends State
}
