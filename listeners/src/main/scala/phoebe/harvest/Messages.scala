package phoebe.harvest

import scala.jdk.CollectionConverters._

import com.fasterxml.jackson.databind.{JsonNode, ObjectMapper}
import com.fasterxml.jackson.databind.node._
import com.fasterxml.jackson.module.scala.DefaultScalaModule

import phoebe.{Json, Reason}

/** One exchange of an `advise` request (docs/protocol.md); `node` is its rank in the plan's pre-order. */
final case class BoundaryRequest(
    node: Int,
    fingerprint: Option[String],
    eligible: Boolean,
    reason: Option[Reason],
    restorable: Boolean
) {
  def toJson: ObjectNode = Json.obj(
    "node" -> node,
    "fingerprint" -> fingerprint,
    "eligible" -> eligible,
    "reason" -> reason.map(_.toJson),
    "restorable" -> restorable
  )
}

/** The companion's decision about one boundary; `predicted` is passed on to `boundary` as it came. */
final case class BoundaryDecision(
    node: Int,
    checkpoint: Boolean,
    reason: Reason,
    predicted: Option[JsonNode]
)

final case class Advice(
    requestId: Long,
    decisions: Seq[BoundaryDecision],
    modelVersion: Option[String],
    elapsedMs: Double
)

object Advice {

  /** Throws `IllegalArgumentException` if `node` is not an `advice` message. */
  private[phoebe] def fromJson(node: JsonNode): Advice = {
    require(node.path("request_id").isIntegralNumber, "advice without request_id")
    require(node.path("decisions").isArray, "advice without decisions")
    val decisions = node.get("decisions").elements().asScala.map { d =>
      require(d.path("node").isIntegralNumber, "decision without node")
      require(d.path("checkpoint").isBoolean, "decision without checkpoint")
      BoundaryDecision(
        d.get("node").asInt,
        d.get("checkpoint").asBoolean,
        Reason.fromJson(d.get("reason")),
        Option(d.get("predicted")).filter(_.isObject)
      )
    }.toIndexedSeq
    Advice(
      node.get("request_id").asLong,
      decisions,
      Option(node.get("model_version")).filter(_.isTextual).map(_.asText),
      node.path("elapsed_ms").asDouble(0.0)
    )
  }
}
