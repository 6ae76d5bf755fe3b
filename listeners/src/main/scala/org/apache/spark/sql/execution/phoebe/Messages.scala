package org.apache.spark.sql.execution.phoebe

import scala.jdk.CollectionConverters._

import com.fasterxml.jackson.databind.{JsonNode, ObjectMapper}
import com.fasterxml.jackson.databind.node._
import com.fasterxml.jackson.module.scala.DefaultScalaModule

/** Newline-delimited JSON as in docs/protocol.md: one object a line, absent values are null. */
private[phoebe] object Json {
  private val mapper = new ObjectMapper()

  /** For what `tree` does not know itself (plans): to set it up takes a tenth of a second. */
  private lazy val scalaMapper = new ObjectMapper().registerModule(DefaultScalaModule)

  def line(fields: (String, Any)*): String = {
    val node = mapper.createObjectNode()
    fields.foreach { case (name, value) => node.set[JsonNode](name, tree(value)) }
    mapper.writeValueAsString(node)
  }

  def obj(fields: (String, Any)*): ObjectNode = {
    val node = mapper.createObjectNode()
    fields.foreach { case (name, value) => node.set[JsonNode](name, tree(value)) }
    node
  }

  /**
   * Any Scala value (maps, sequences, options, `SparkPlanInfo`...) as a tree. A function is called: what
   * is costly is worked out by whoever writes it, not by a thread that plans.
   */
  def tree(value: Any): JsonNode = value match {
    case node: JsonNode => node
    case reason: Reason => reason.toJson
    case null | None => NullNode.instance
    case Some(inner) => tree(inner)
    case later: Function0[_] => tree(later())
    case text: String => TextNode.valueOf(text)
    case flag: Boolean => BooleanNode.valueOf(flag)
    case n: Int => IntNode.valueOf(n)
    case n: Long => LongNode.valueOf(n)
    case n: Double => DoubleNode.valueOf(n)
    case map: scala.collection.Map[_, _] =>
      val node = mapper.createObjectNode()
      map.foreach { case (key, item) => node.set[JsonNode](key.toString, tree(item)) }
      node
    case items: Iterable[_] =>
      val node = mapper.createArrayNode()
      items.foreach(item => node.add(tree(item)))
      node
    case other => scalaMapper.valueToTree[JsonNode](other)
  }

  def write(value: Any): String = mapper.writeValueAsString(tree(value))

  def read(text: String): JsonNode = mapper.readTree(text)
}

/**
 * Why something was decided, in the same three fields as `phoebe_spark.reasons.Reason`: `code` is
 * stable and machine-readable, `args` holds the figures, `message` is one sentence.
 */
final case class Reason(code: String, message: String, args: Map[String, Any] = Map.empty) {
  def toJson: ObjectNode = {
    val plain = args.map { case (k, v) =>
      k -> (v match { case r: Reason => r.toString; case o => o })
    }
    Json.obj("code" -> code, "args" -> plain, "message" -> message)
  }

  override def toString: String = s"$message [$code]"
}

object Reason {
  private[phoebe] def fromJson(node: JsonNode): Reason =
    if (node == null || !node.isObject) Reason("unknown", "no reason was given")
    else {
      val args = Option(node.get("args")).filter(_.isObject).map { a =>
        a.properties().asScala.map(e => e.getKey -> (e.getValue: Any)).toMap
      }
      Reason(
        node.path("code").asText("unknown"),
        node.path("message").asText(""),
        args.getOrElse(Map.empty)
      )
    }
}

/** One exchange of an `advise` request (docs/protocol.md); `node` is its rank in the plan's pre-order. */
final case class BoundaryRequest(
    node: Int,
    fingerprint: Option[String],
    eligible: Boolean,
    reason: Option[Reason],
    restorable: Boolean
) {
  private[phoebe] def toJson: ObjectNode = Json.obj(
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
