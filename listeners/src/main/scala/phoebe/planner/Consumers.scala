package phoebe.planner

import java.util.IdentityHashMap

import org.apache.spark.sql.execution.{SparkPlan, SQLExecution}
import org.apache.spark.sql.execution.phoebe.exchange.RestoredExchangeExec
import phoebe.Reason
import phoebe.fingerprint.{Fingerprint, Refusal, ReplanMatcher, RowOrder}
import phoebe.fingerprint.RowOrder.{Computation, Stored, Value}
import phoebe.store.CommittedCheckpoint

/**
 * Who else in a query computes what a restored boundary holds. A sum of floating-point numbers, and all
 * else that follows from the order of rows, comes out one way in the run that stored it and another way
 * in this one: where the query has it twice, it is restored from one run for both or for neither. A value
 * that the query has once is restored.
 */
private[phoebe] final class Consumers(
    plan: SparkPlan,
    executionId: Long,
    boundaries: Seq[PlannedBoundary],
    prints: Seq[Either[Refusal, Fingerprint]]
) {
  import Consumers._

  private val hashes = new IdentityHashMap[SparkPlan, String]
  boundaries.zip(prints).foreach { case (b, print) =>
    print.foreach(f => hashes.put(b.exchange, f.hash))
  }

  /**
   * The fingerprints that must not be restored, if those were that `run` knows.
   *
   * @param run
   *   who had written the checkpoint of a fingerprint that is to be restored
   */
  def contested(run: String => Option[String]): Map[String, Reason] = {
    val computations = all(run)
    if (!computations.exists(_.usesStore)) Map.empty
    else RowOrder.contested(computations, elsewhere(computations)).map { case (hash, value) =>
      hash -> reasonOf(value)
    }
  }

  /**
   * Those of them that are restored together or not at all, also when one of them cannot be read any more:
   * it is not computed in its stead.
   */
  def linked(run: String => Option[String]): Set[String] = RowOrder.linked(all(run))

  private def all(run: String => Option[String]): Seq[Computation] = RowOrder.computations(
    plan,
    {
      case restored: RestoredExchangeExec =>
        Some(Stored(restored.fingerprint, Consumers.run(restored.checkpoint)))
      case exchange =>
        Option(hashes.get(exchange)).flatMap(hash => run(hash).map(Stored(hash, _)))
    }
  )

  /** Subqueries are planned first, when the rest of the query is known by its logical plan only. */
  private def elsewhere(computations: Seq[Computation]): Set[Value] =
    Option(SQLExecution.getQueryExecution(executionId)) match {
      case Some(query) => RowOrder.elsewhere(query.optimizedPlan, ReplanMatcher.root(plan))
      case None => computations.filter(_.usesStore).flatMap(_.of).filter(_.steps == 0).toSet
    }
}

private[phoebe] object Consumers {

  /** The SQL execution that had written a checkpoint. */
  def run(checkpoint: CommittedCheckpoint): String = {
    val manifest = checkpoint.manifest
    s"${manifest.appId} ${manifest.appAttempt} ${manifest.executionId}"
  }

  private def reasonOf(value: Value): Reason = {
    val what = if (value.column.isEmpty) "the order of rows" else s"column ${value.column}"
    Reason(
      "computed_twice",
      s"the query has what follows from $what of ${value.input} twice, and would see another run's " +
        "result beside its own: it depends on the order of rows",
      Map("column" -> value.column, "input" -> value.input)
    )
  }
}
