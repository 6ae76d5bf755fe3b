/*
 * The parts of Spark's scheduler that differ between 4.0, 4.1 and 4.2, as they are in 4.2: how the readers
 * of outputs that have changed are rolled back. 4.0 does so by the stages' attempts alone. In Spark's
 * package for DAGScheduler and its stages (private[spark], private[scheduler]).
 */
package org.apache.spark.scheduler.phoebe.compat

import scala.jdk.CollectionConverters._

import org.apache.spark.scheduler.{ActiveJob, DAGScheduler, ResultStage, ShuffleMapStage}

/** To be called on the scheduler's own thread. */
private[spark] object SchedulerVersion {

  /** The jobs of a SQL execution that have ended. Before 4.2 the scheduler keeps none of them. */
  def endedJobs(scheduler: DAGScheduler, executionId: Long): Seq[ActiveJob] =
    Option(scheduler.activeQueryToJobs.get(executionId)).toSeq
      .flatMap(_.asScala).filterNot(scheduler.activeJobs.contains)

  /**
   * Rolls back all readers of a stage's outputs. In 4.1 these are the stages downstream of it
   * (`rollbackSucceedingStages`), in 4.2 also those of its query's other jobs.
   *
   * @param results
   *   the result stages among them; their tasks may end well in spite of being killed, which is no failure
   */
  def rollBackReaders(
      scheduler: DAGScheduler,
      stage: ShuffleMapStage,
      results: Seq[ResultStage]
  ): Unit = {
    val left = results.map(result => result -> result.maxAttemptIdToIgnore)
    scheduler.rollbackSucceedingStagesForQuery(stage)
    // Spark would fail the job for each task that ends well in spite of being killed.
    left.foreach { case (result, ignored) => result.maxAttemptIdToIgnore = ignored }
  }

  /** Results of tasks of a result stage that began before this call are ignored. Not in 4.0. */
  def markAsRollingBack(result: ResultStage): Unit = result.markAsRollingBack()
}
