/*
 * Aggregations, by phase. A partial result is not the final one: its rows depend on how the rows
 * below were spread over tasks, and only their merge is the same on every run.
 */
package phoebe.fingerprint

import org.apache.spark.sql.catalyst.expressions.ExprId
import org.apache.spark.sql.catalyst.expressions.aggregate._
import org.apache.spark.sql.catalyst.util.UnsafeRowUtils
import org.apache.spark.sql.execution.aggregate.BaseAggregateExec
import phoebe.fingerprint.ExpressionText.{typeText, Env}

private[fingerprint] object Aggregates {

  def apply(a: BaseAggregateExec, below: Relation, text: ExpressionText): Relation = {
    if (a.isStreaming) Refused.source("streaming", a.nodeName, "it is a stream")
    a.groupingExpressions.find(e => !UnsafeRowUtils.isBinaryStable(e.dataType)).foreach { e =>
      // Which of several equal strings represents a group depends on the order of rows.
      Refused.orderSensitive(s"grouping by ${typeText(e.dataType)}")
    }
    val keys = a.groupingExpressions.map(text.name(_, below.env))
    // Without functions (a distinct), only the required distribution tells the phases apart.
    val phase = a.aggregateExpressions.map(_.mode.toString).distinct.sorted.mkString("+") +
      (if (a.requiredChildDistributionExpressions.isDefined) " global" else " local")
    val hash = new Digest("aggregate").add(below.hash).add(phase).addAll(keys.distinct.sorted).hex()

    var offset = a.initialInputBufferOffset
    val made = a.aggregateExpressions.zip(a.aggregateAttributes).flatMap { case (call, result) =>
      val function = call.aggregateFunction
      val buffers = function.inputAggBufferAttributes
      val canonical = call.mode match {
        case Partial | Complete =>
          below.named(text.aggregate(call, below.env), RowOrder.isExact(function))
        case PartialMerge | Final =>
          // A merge is named by the buffers that it reads: their names hold the call itself.
          val first = offset
          offset += buffers.length
          val read = buffers.zipWithIndex.map { case (b, i) =>
            below.env.get(b).getOrElse(below.env(a.child.output(first + i)))
          }
          new Digest("merge").add(function.getClass.getName).addAll(read).hex()
      }
      call.mode match {
        case Partial | PartialMerge =>
          buffers.zipWithIndex.map { case (b, i) =>
            b.exprId -> Digest.of("buffer", hash, canonical, i.toString)
          }
        case Final | Complete => Seq(result.exprId -> Digest.of("result", hash, canonical))
      }
    }
    val grouping: Seq[(ExprId, String)] = a.groupingExpressions.map(_.toAttribute.exprId).zip(keys)
    val inner = Env((grouping ++ made).toMap)
    val output = a.resultExpressions.map(e => e.exprId -> text.name(e, inner))
    below.copy(hash = hash, env = Env(output.toMap), output = Nil)
  }
}
