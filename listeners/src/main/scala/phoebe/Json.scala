package phoebe

import com.fasterxml.jackson.databind.{JsonNode, ObjectMapper}
import com.fasterxml.jackson.databind.node._
import com.fasterxml.jackson.module.scala.DefaultScalaModule

/** Newline-delimited JSON as in docs/protocol.md: one object a line, absent values are null. */
object Json {
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
