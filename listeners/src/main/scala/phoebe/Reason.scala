package phoebe

import scala.jdk.CollectionConverters._

import com.fasterxml.jackson.databind.JsonNode
import com.fasterxml.jackson.databind.node.ObjectNode

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
