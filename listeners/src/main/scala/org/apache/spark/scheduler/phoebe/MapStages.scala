// In Spark's package for DAGScheduler and its stages (private[spark], private[scheduler]).
package org.apache.spark.scheduler.phoebe

import java.lang.reflect.Field
import java.util.Properties

import scala.collection.mutable
import scala.concurrent.{ExecutionContext, Promise}
import scala.util.Try

import org.apache.spark.scheduler.{phoebe => _, _}
import org.apache.spark.scheduler.phoebe.compat.SchedulerVersion
import org.apache.spark.sql.execution.SQLExecution

/**
 * The parts of Spark's scheduler that a restored shuffle needs when it gets its lineage late: its map
 * stage waits for the lineage, and is then as if it had that lineage from the beginning.
 *
 * The scheduler's state belongs to its event loop. Everything but `onSchedulerThread` is called there.
 */
private[spark] object MapStages {

  /** Runs something on the scheduler's own thread, between two of its events. */
  def onSchedulerThread(scheduler: DAGScheduler)(body: => Unit): Unit = {
    val reached = Promise[Seq[ActiveJob]]()
    reached.future.foreach(_ => body)(ExecutionContext.parasitic)
    // No job has this tag, so the scheduler cancels nothing and completes the promise.
    scheduler.eventProcessLoop.post(JobTagCancelled(NoJob, None, Some(reached)))
  }

  def isSchedulerThread(scheduler: DAGScheduler): Boolean =
    scheduler.eventProcessLoop.eventThread eq Thread.currentThread()

  /**
   * Holds back a shuffle's map stage, if there is one now, until it is released: to the scheduler it
   * waits for its parents. No task of it runs, and it holds no slot.
   *
   * @return
   *   the properties of a job that needs it
   */
  def park(scheduler: DAGScheduler, shuffleId: Int): Option[Properties] =
    scheduler.shuffleIdToMapStage.get(shuffleId).flatMap { stage =>
      if (!scheduler.runningStages.contains(stage)) scheduler.waitingStages += stage
      jobsOf(scheduler, stage).headOption.flatMap(id =>
        Option(scheduler.jobIdToActiveJob(id).properties)
      )
    }

  /**
   * Submits a shuffle's map stage, whose RDD has its lineage by now. The stage gets the stages of that
   * lineage as parents, and its jobs need these too.
   *
   * @param rolledBack
   *   the cause with which jobs fail that have returned a part of their result since they were rolled back
   */
  def release(scheduler: DAGScheduler, shuffleId: Int, rolledBack: Option[Exception]): Unit = {
    rolledBack.foreach { cause =>
      results(scheduler, shuffleId).foreach { result =>
        if (handsOut(result)) scheduler.abortStage(result, cause.toString, Some(cause))
        else SchedulerVersion.markAsRollingBack(result)
      }
    }
    scheduler.shuffleIdToMapStage.get(shuffleId).foreach { stage =>
      val jobs = jobsOf(scheduler, stage)
      jobs.headOption.foreach { first =>
        val upstream = scheduler.getShuffleDependenciesAndResourceProfiles(stage.rdd)._1.toList
        val parents = upstream.map { dependency =>
          scheduler.shuffleIdToMapStage.getOrElse(
            dependency.shuffleId,
            scheduler.createShuffleMapStage(dependency, first)
          )
        }
        // By its parents Spark wakes a waiting stage, and finds the stages to roll back.
        Parents.set(stage, parents)
        jobs.foreach(need(scheduler, _, parents))
      }
      scheduler.waitingStages -= stage
      scheduler.failedStages += stage
      scheduler.eventProcessLoop.post(ResubmitFailedStages)
    }
  }

  /** The map stage's own, of which a shuffle has one after the other. */
  def id(scheduler: DAGScheduler, shuffleId: Int): Option[Int] =
    scheduler.shuffleIdToMapStage.get(shuffleId).map(_.id)

  /** Lets the readers of a parked map stage go on: all its outputs are there after all. */
  def resumeReaders(scheduler: DAGScheduler, shuffleId: Int): Unit =
    scheduler.shuffleIdToMapStage.get(shuffleId).foreach { stage =>
      val readers = scheduler.waitingStages.filter(_.parents.contains(stage)).toSeq
      scheduler.waitingStages -= stage
      scheduler.waitingStages --= readers
      scheduler.failedStages ++= readers
      scheduler.eventProcessLoop.post(ResubmitFailedStages)
    }

  /** The SQL executions of the jobs that need a shuffle's map stage. */
  def executions(scheduler: DAGScheduler, shuffleId: Int): Seq[Long] =
    scheduler.shuffleIdToMapStage.get(shuffleId).toSeq
      .flatMap(jobsOf(scheduler, _).flatMap(executionOf(scheduler, _))).distinct

  private def executionOf(scheduler: DAGScheduler, job: Int): Option[Long] =
    Option(scheduler.jobIdToActiveJob(job).properties)
      .flatMap(p => Option(p.getProperty(SQLExecution.EXECUTION_ID_KEY))).map(_.toLong)

  /** Whether stages can be released in this JVM. */
  def mayRelease: Boolean = Try(Parents).isSuccess

  /** Fails the jobs that need a shuffle's map stage. */
  def abort(scheduler: DAGScheduler, shuffleId: Int, cause: Exception): Unit =
    scheduler.shuffleIdToMapStage.get(shuffleId).foreach { stage =>
      scheduler.abortStage(stage, cause.toString, Some(cause))
    }

  /**
   * Rolls back everything that a query has computed from a shuffle, because its new outputs may differ.
   * Jobs that have returned a part of their result fail with `cause`. Jobs that might still return one
   * before the stage is released are checked then.
   *
   * @param wasRead
   *   whether earlier jobs have read the shuffle
   * @param isRunning
   *   whether a SQL execution has not ended: after its end, several jobs may return one result together
   */
  def rollBack(
      scheduler: DAGScheduler,
      shuffleId: Int,
      cause: Exception,
      wasRead: Boolean,
      isRunning: Long => Boolean
  ): Unit =
    scheduler.shuffleIdToMapStage.get(shuffleId).foreach { stage =>
      val executions = jobsOf(scheduler, stage).map(executionOf(scheduler, _)).distinct
      // Jobs of the same query: as Spark does where order-independent checksums differ.
      val ended = executions.flatten
        .flatMap(SchedulerVersion.endedJobs(scheduler, _)).map(_.finalStage)
      val isOut = wasRead && !executions.forall(_.exists(isRunning)) || ended.exists {
        case result: ResultStage => dependsOn(result, shuffleId)
        case _ => false
      }
      val readers = scheduler.activeJobs.toSeq.map(_.finalStage).filter(dependsOn(_, shuffleId))
      readers.foreach {
        case result: ResultStage if !isOut && !handsOut(result) =>
          // Rows that its tasks have read so far must not get into the new result.
          if (!scheduler.runningStages.contains(result)) scheduler.taskScheduler
            .killAllTaskAttempts(result.id, interruptThread = false, "its input is computed again")
          else scheduler.abortStage(result, cause.toString, Some(cause))
        case _: ShuffleMapStage if !isOut =>
        case other => scheduler.abortStage(other, cause.toString, Some(cause))
      }
      if (scheduler.stageIdToStage.contains(stage.id)) {
        SchedulerVersion.rollBackReaders(scheduler, stage, results(scheduler, shuffleId))
      }
    }

  private def results(scheduler: DAGScheduler, shuffleId: Int): Seq[ResultStage] =
    scheduler.activeJobs.toSeq.map(_.finalStage).collect {
      case result: ResultStage if dependsOn(result, shuffleId) => result
    }

  private def handsOut(result: ResultStage): Boolean =
    result.activeJob.isDefined && result.findMissingPartitions().length < result.numTasks

  def exists(scheduler: DAGScheduler, shuffleId: Int): Boolean =
    scheduler.shuffleIdToMapStage.contains(shuffleId)

  /** The number of jobs so far. */
  def jobsSoFar(scheduler: DAGScheduler): Int = scheduler.numTotalJobs

  private def dependsOn(stage: Stage, shuffleId: Int): Boolean = {
    val seen = mutable.Set.empty[Int]
    def below(from: Stage): Boolean = seen.add(from.id) && from.parents.exists {
      case map: ShuffleMapStage if map.shuffleDep.shuffleId == shuffleId => true
      case other => below(other)
    }
    below(stage)
  }

  private def jobsOf(scheduler: DAGScheduler, stage: Stage): Seq[Int] =
    stage.jobIds.toSeq.filter(scheduler.jobIdToActiveJob.contains).sorted

  /** Notes that a job needs these stages and all stages upstream of them. */
  private def need(scheduler: DAGScheduler, job: Int, stages: Seq[Stage]): Unit = {
    var open = stages.toList
    while (open.nonEmpty) {
      val stage = open.head
      stage.jobIds += job
      scheduler.jobIdToStageIds.getOrElseUpdate(job, new mutable.HashSet[Int]) += stage.id
      open = stage.parents.filterNot(_.jobIds.contains(job)) ++ open.tail
    }
  }

  private val NoJob = "phoebe-no-job"

  private lazy val Parents: Field = {
    val field = classOf[Stage].getDeclaredField("parents")
    field.setAccessible(true)
    field
  }
}
