package phoebe

import scala.collection.mutable

import com.fasterxml.jackson.core.{
  JsonFactory,
  JsonFactoryBuilder,
  JsonGenerator,
  StreamWriteConstraints
}

/** JSON of any depth: a plan is nested twice as deep as it has operators above each other. */
private[phoebe] object JsonTree {
  val factory: JsonFactory = new JsonFactoryBuilder()
    .streamWriteConstraints(StreamWriteConstraints.builder().maxNestingDepth(Int.MaxValue).build())
    .build()

  /** Writes a tree without recursion, each node as an object: its own fields, then its children. */
  def write[T](root: T, children: T => Iterable[T])(before: T => Unit)(after: T => Unit)(implicit
      g: JsonGenerator
  ): Unit = {
    val open = mutable.Stack.empty[(T, Iterator[T])]
    def begin(node: T): Unit = {
      g.writeStartObject()
      before(node)
      val below = children(node)
      if (below.nonEmpty) g.writeArrayFieldStart("children")
      open.push((node, below.iterator))
    }
    begin(root)
    while (open.nonEmpty) {
      val (node, below) = open.top
      if (below.hasNext) begin(below.next())
      else {
        open.pop()
        if (children(node).nonEmpty) g.writeEndArray()
        after(node)
        g.writeEndObject()
      }
    }
  }
}
