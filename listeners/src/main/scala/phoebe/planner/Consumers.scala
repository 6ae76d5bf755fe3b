package phoebe.planner

import java.util.IdentityHashMap

import org.apache.spark.sql.execution.{SparkPlan, SQLExecution}
import org.apache.spark.sql.execution.phoebe.exchange.RestoredExchangeExec
import phoebe.Reason
import phoebe.fingerprint.{Fingerprint, Refusal, ReplanMatcher, RowOrder}
import phoebe.fingerprint.RowOrder.{Computation, Stored, Value}
import phoebe.store.CommittedCheckpoint

/**
 * The other consumers in a query of a restored boundary's values. Sums of floating-point numbers, and
 * other values that depend on the order of rows, may differ between the run that stored them and this
 * one. If a query has such a value twice, both are restored from one run, or neither is. A value that
 * the query has once is restored.
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
   * The fingerprints that must not be restored, if all those that `run` knows were restored.
   *
   * @param run
   *   the SQL execution that wrote the checkpoint of a fingerprint to be restored
   */
  def contested(run: String => Option[String]): Map[String, Reason] = {
    val computations = all(run)
    if (!computations.exists(_.usesStore)) Map.empty
    else RowOrder.contested(computations, elsewhere(computations)).map { case (hash, value) =>
      hash -> reasonOf(value)
    }
  }

  /**
   * The fingerprints that are restored together or not at all. So if one of them becomes unreadable, it
   * is not recomputed.
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

  /** The rest of the query, by its logical plan: subqueries are planned before it has a physical one. */
  private def elsewhere(computations: Seq[Computation]): Set[Value] =
    Option(SQLExecution.getQueryExecution(executionId)) match {
      case Some(query) => RowOrder.elsewhere(query.optimizedPlan, ReplanMatcher.root(plan))
      case None => computations.filter(_.usesStore).flatMap(_.of).filter(_.steps == 0).toSet
    }
}

private[phoebe] object Consumers {

  /** The SQL execution that wrote a checkpoint. */
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
