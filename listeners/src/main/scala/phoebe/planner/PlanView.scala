package phoebe.planner

import java.io.StringWriter

import scala.collection.mutable

import com.fasterxml.jackson.core.JsonGenerator
import com.fasterxml.jackson.databind.JsonNode
import com.fasterxml.jackson.databind.node.POJONode
import com.fasterxml.jackson.databind.util.RawValue

import org.apache.spark.sql.catalyst.plans.QueryPlan
import org.apache.spark.sql.catalyst.plans.logical.{EmptyRelation, LogicalPlan}
import org.apache.spark.sql.classic.SparkSession
import org.apache.spark.sql.execution.{
  EmptyRelationExec,
  FileSourceScanLike,
  ReusedSubqueryExec,
  SparkPlan
}
import org.apache.spark.sql.execution.adaptive.{
  AdaptiveSparkPlanExec,
  LogicalQueryStage,
  QueryStageExec
}
import org.apache.spark.sql.execution.columnar.InMemoryTableScanExec
import org.apache.spark.sql.execution.exchange.ReusedExchangeExec
import org.apache.spark.sql.internal.SQLConf
import phoebe.JsonTree

/**
 * A plan as Spark's listeners get it: the tree of `SparkPlanInfo`, whose pre-order ranks the nodes. It
 * leaves out metrics, which advice does not need. And it does not create the tree where only its shape
 * or its ranks are needed.
 */
private[phoebe] object PlanView {

  /** The children of a node in `SparkPlanInfo.fromSparkPlan`. */
  def children(plan: QueryPlan[_]): Seq[QueryPlan[_]] = plan match {
    case ReusedExchangeExec(_, child) => child :: Nil
    case ReusedSubqueryExec(child) => child :: Nil
    case adaptive: AdaptiveSparkPlanExec => adaptive.executedPlan :: Nil
    case stage: QueryStageExec => stage.plan :: Nil
    case scan: InMemoryTableScanExec => scan.relation.cachedPlan :: Nil
    case EmptyRelationExec(logical) => logical :: Nil
    case LogicalQueryStage(_, physical) => physical :: Nil
    case EmptyRelation(logical) => logical :: Nil
    case other: SparkPlan => other.children ++ other.subqueries
    case other: LogicalPlan => other.children ++ other.subqueries
  }

  /**
   * Nodes with name, one-line string, metadata and children, as in `SparkPlanInfo`'s JSON. Everything that
   * can still change (the nodes, the session's settings) is read at once. The texts, which are most of the
   * work, are made when the returned function is called.
   */
  def json(plan: SparkPlan): () => JsonNode = {
    val conf = SQLConf.get
    val session = SparkSession.getActiveSession
    val shown = look(plan)
    // A data source may need the session's settings for its text.
    def tree = SQLConf.withExistingConf(conf)(text(shown, conf.maxToStringFields))
    () => session.fold(tree)(_.withActive(tree))
  }

  final private class Shown(val plan: QueryPlan[_]) {
    val metadata: Map[String, String] = plan match {
      case scan: FileSourceScanLike => scan.metadata
      case _ => Map.empty
    }
    val below = mutable.ArrayBuffer.empty[Shown]
  }

  private def look(plan: QueryPlan[_]): Shown = {
    val root = new Shown(plan)
    val todo = mutable.Stack(root)
    while (todo.nonEmpty) {
      val node = todo.pop()
      children(node.plan).foreach(child => node.below += new Shown(child))
      todo.pushAll(node.below)
    }
    root
  }

  /** A node that is written without recursion, so that plans may have any depth. */
  private def text(shown: Shown, maxFields: Int): JsonNode = {
    val made = new StringWriter(1 << 14)
    implicit val g: JsonGenerator = JsonTree.factory.createGenerator(made)
    JsonTree.write[Shown](shown, _.below) { node =>
      g.writeStringField("nodeName", node.plan.nodeName)
      g.writeStringField("simpleString", node.plan.simpleString(maxFields))
    } { node =>
      g.writeObjectFieldStart("metadata")
      node.metadata.foreach { case (key, value) => g.writeStringField(key, value) }
      g.writeEndObject()
    }
    g.close()
    new POJONode(new RawValue(made.toString))
  }
}
