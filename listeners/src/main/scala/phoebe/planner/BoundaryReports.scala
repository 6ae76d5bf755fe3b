package phoebe.planner

import com.fasterxml.jackson.databind.JsonNode

import org.apache.spark.sql.execution.SparkPlan
import org.apache.spark.sql.execution.exchange.ShuffleExchangeLike
import org.apache.spark.sql.execution.metric.SQLShuffleWriteMetricsReporter
import phoebe.Reason
import phoebe.driver.{ExecutionState, Verdict}
import phoebe.fingerprint.{Fingerprint, Refusal}
import phoebe.plugin.PhoebeRuntime

/** Reports the decision about each boundary of a first plan, with its reason: `boundary` messages. */
private[phoebe] final class BoundaryReports(phoebe: PhoebeRuntime) {
  import BoundaryReports._

  /** Reports all boundaries of a plan with one common reason. */
  def skipped(id: Long, boundaries: Seq[PlannedBoundary], reason: Reason): Unit =
    boundaries.foreach { b =>
      tell(id, b, None, None, "skip", reason, accumulator(b.exchange), None, None)
    }

  /** One `boundary` message for each exchange of the first plan, with the node that really runs. */
  def decided(
      id: Long,
      boundaries: Seq[PlannedBoundary],
      prints: Seq[Either[Refusal, Fingerprint]],
      restores: RestorePlan,
      state: ExecutionState,
      advised: Advised,
      result: SparkPlan
  ): Unit = {
    val parts = state.parts
    // Replacing keeps the order of the other exchanges.
    val running = result.collect { case e: ShuffleExchangeLike => e }.iterator
    boundaries.zip(prints).foreach { case (b, print) =>
      val gone = restores.isUpstream(b)
      val node = if (gone || !running.hasNext) None else Some(running.next())
      val predicted = advised.choices.get(b.node).flatMap(_._3)
      val hash = print.toOption.map(_.hash)
      val (decision, reason) = print match {
        case Left(refusal) => "refuse" -> reasonOf(refusal)
        case Right(_) if gone => "skip" -> UpstreamOfRestored
        case Right(f) =>
          state.verdicts.get(f.hash) match {
            case Verdict.Write(reason, _) => "checkpoint" -> reason
            case Verdict.Restore(reason, _, _) => "restore" -> reason
            case Verdict.Skip(reason) => "skip" -> reason
            case null => "skip" -> advised.otherwise
          }
      }
      phoebe.count(s"boundaries.$decision")
      tell(
        id,
        b,
        hash,
        print.toOption.map(f => () => parts.of(b.exchange, f)),
        decision,
        reason,
        node.fold(-1L)(accumulator),
        predicted,
        advised.modelVersion
      )
    }
  }

  private def tell(
      id: Long,
      boundary: PlannedBoundary,
      fingerprint: Option[String],
      parts: Option[() => Option[Map[String, Any]]],
      decision: String,
      reason: Reason,
      accumulator: Long,
      predicted: Option[JsonNode],
      modelVersion: Option[String]
  ): Unit =
    phoebe.companion.send(
      "type" -> "boundary",
      "execution_id" -> id,
      "acc_id" -> accumulator,
      "fingerprint" -> fingerprint,
      "parts" -> parts,
      "partitions" -> boundary.exchange.outputPartitioning.numPartitions,
      "catalyst_bytes" -> boundary.catalystBytes.map(_.toLong),
      "catalyst_rows" -> boundary.catalystRows.map(_.toLong),
      "decision" -> decision,
      "reason" -> reason,
      "predicted" -> predicted,
      "model_version" -> modelVersion,
      "time" -> System.currentTimeMillis()
    )

  private def accumulator(exchange: ShuffleExchangeLike): Long =
    exchange.metrics.get(SQLShuffleWriteMetricsReporter.SHUFFLE_BYTES_WRITTEN).fold(-1L)(_.id)
}

private[phoebe] object BoundaryReports {
  private val UpstreamOfRestored =
    Reason("upstream_of_restored", "a boundary downstream of it was restored, it does not run")

  def reasonOf(refusal: Refusal): Reason = Reason(refusal.code, refusal.message, refusal.args)
}
