package phoebe.planner

import scala.util.Try

import com.fasterxml.jackson.databind.JsonNode

import org.apache.spark.sql.execution.SparkPlan
import phoebe.Reason
import phoebe.fingerprint.{Fingerprint, Refusal}
import phoebe.harvest.{Advice, BoundaryRequest}
import phoebe.plugin.PhoebeRuntime
import phoebe.settings.{Force, PhoebeSettings}

/**
 * The choices of the companion (or of `force`), by node rank.
 *
 * @param otherwise the reason for boundaries without a choice
 */
private[phoebe] final case class Advised(
    choices: Map[Int, (Boolean, Reason, Option[JsonNode])],
    otherwise: Reason,
    modelVersion: Option[String]
)

/** Gets choices from the setting `force`, or from the companion if the query is expected to be long. */
private[phoebe] final class Advising(phoebe: PhoebeRuntime) {
  import Advising._

  /**
   * Sends the plan of a long query to the companion, which predicts meanwhile. Right: the plan's handle
   * for the request in `apply`.
   */
  def show(
      plan: SparkPlan,
      id: Long,
      settings: PhoebeSettings,
      boundaries: Seq[PlannedBoundary]
  ): Either[Reason, Long] =
    phoebe.companion.show(
      id,
      slots,
      settings.minDurationMs,
      PlanView.json(plan),
      boundaries.map(_.toJson)
    )

  /**
   * @param shown
   *   the plan's handle at the companion, or why it was not sent
   * @param open
   *   the boundaries without a decision so far
   */
  def apply(
      id: Long,
      settings: PhoebeSettings,
      shown: Either[Reason, Long],
      boundaries: Seq[PlannedBoundary],
      prints: Seq[Either[Refusal, Fingerprint]],
      restorable: Set[String],
      open: Seq[(PlannedBoundary, Fingerprint)]
  ): Advised =
    if (open.isEmpty) Advised(Map.empty, NothingOpen, None)
    else settings.force match {
      case Force.None =>
        val began = System.nanoTime()
        val answer = shown.flatMap(ask(_, boundaries, prints, restorable))
        phoebe.planning.advice(id, System.nanoTime() - began)
        answer match {
          case Left(reason) => Advised(Map.empty, reason, None)
          case Right(advice) =>
            val choices =
              advice.decisions.map(d => d.node -> ((d.checkpoint, d.reason, d.predicted))).toMap
            Advised(choices, NotAdvised, advice.modelVersion)
        }
      case force =>
        val choices = open.map { case (b, print) =>
          val chosen = force.names(Some(print.hash), b.boundaryId)
          b.node -> ((chosen, if (chosen) Forced else NotForced, Option.empty[JsonNode]))
        }
        Advised(choices.toMap, NotForced, None)
    }

  private def ask(
      shown: Long,
      boundaries: Seq[PlannedBoundary],
      prints: Seq[Either[Refusal, Fingerprint]],
      restorable: Set[String]
  ): Either[Reason, Advice] = {
    val requests = boundaries.zip(prints).map { case (b, print) =>
      BoundaryRequest(
        b.node,
        print.toOption.map(_.hash),
        print.isRight,
        print.left.toOption.map(BoundaryReports.reasonOf),
        print.toOption.exists(p => restorable(p.hash))
      )
    }
    phoebe.companion.ask(shown, requests)
  }

  /** Whether the query is expected to be long: by past runs of such a plan, or by its input's size. */
  def isLong(plan: SparkPlan, settings: PhoebeSettings): Boolean = {
    val shapes = phoebe.companion.longShapes
    (shapes.nonEmpty && shapes(PlanShape.of(plan))) || {
      val msOfInput = PlanShape.inputBytes(plan) / (ScanBytesPerSlotMs * math.max(1, slots))
      msOfInput >= settings.minDurationMs
    }
  }

  private def slots: Int = Try(phoebe.sparkContext.defaultParallelism).getOrElse(1)
}

private[phoebe] object Advising {

  /** The most bytes that a core scans in a millisecond (about 100 MB/s): a bound, not a prediction. */
  private val ScanBytesPerSlotMs = 100000L

  private val Forced = Reason("forced", "spark.phoebe.force names it")
  private val NotForced = Reason("not_forced", "spark.phoebe.force does not name it")
  private val NothingOpen = Reason("nothing_open", "no boundary is left to decide about")
  private val NotAdvised = Reason("not_advised", "the advice does not speak of it")

  def shortQuery(settings: PhoebeSettings) = Reason(
    "short_query",
    s"neither history nor its input says that it runs for ${settings.minDurationMs} ms",
    Map("min_duration_ms" -> settings.minDurationMs)
  )
}
