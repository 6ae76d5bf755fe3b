// In Spark's package for the exchanges beside it (private[exchange]).
package org.apache.spark.sql.execution.phoebe.exchange

import scala.collection.mutable

import org.apache.spark.sql.execution.{QueryExecution, RemoveShuffleFiles, SQLExecution}
import org.apache.spark.sql.execution.adaptive.AdaptiveSparkPlanExec
import phoebe.Reason

/**
 * Whether Spark's clean-up at a query's end would have removed a restored boundary's shuffle, had it
 * been computed. Not thread-safe.
 */
private[exchange] final class CleanedUp(exchange: RestoredExchangeExec) {
  private val users = mutable.Map.empty[Long, QueryExecution]
  private var cleans = false

  /** Called on the query's own thread: the clean-up's setting depends on its local properties. */
  def begin(): Unit = query(exchange.executionId).foreach { found =>
    cleans = found.shuffleCleanupMode == RemoveShuffleFiles
    if (cleans) users.put(exchange.executionId, found)
  }

  /** Whether queries that read it may clean up. */
  def mayFollow: Boolean = cleans

  def usedBy(executions: Seq[Long]): Unit =
    if (cleans) executions.foreach(id => query(id).foreach(users.put(id, _)))

  /** Whether a query that read it has ended and cleaned up since [[restart]]. */
  def isOver: Boolean = {
    val ended = users.toSeq.filter { case (id, _) => query(id).isEmpty }
    val removed = ended.exists { case (_, query) => removes(query) }
    if (!removed) ended.foreach { case (id, _) => users.remove(id) }
    removed
  }

  def restart(): Unit = users.clear()

  private def query(id: Long) = Option(SQLExecution.getQueryExecution(id))

  /**
   * As Spark finds a query's shuffles at its end: not those below a cached table, for example. Boundaries
   * are restored in adaptive plans only. (Exchanges of others are not asked for their ids: that may run a
   * job, and this is the scheduler's thread.)
   */
  private def removes(query: QueryExecution): Boolean =
    query.shuffleCleanupMode == RemoveShuffleFiles &&
      query.executedPlan.collectFirst { case adaptive: AdaptiveSparkPlanExec =>
        adaptive.context.shuffleIds.containsKey(exchange.shuffleId)
      }.contains(true)
}

private[exchange] object CleanedUp {
  val reason: Reason = Reason(
    "cleaned_up",
    "Spark's clean-up after an earlier query would have removed the boundary's outputs"
  )
}
