package org.apache.spark.sql.execution.phoebe

import com.fasterxml.jackson.databind.node.ObjectNode

import org.apache.spark.sql.catalyst.plans.QueryPlan
import org.apache.spark.sql.catalyst.plans.logical.{EmptyRelation, LogicalPlan}
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

/**
 * A plan as Spark's listeners are shown it: the tree of `SparkPlanInfo`, in whose pre-order nodes are
 * ranked, without what advice has no use for (metrics), and without making it where only its shape or
 * its ranks are asked for.
 */
private[phoebe] object PlanView {

  /** What `SparkPlanInfo.fromSparkPlan` shows below a node. */
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
   * Nodes with name, one-line string, metadata and children, as in `SparkPlanInfo`'s JSON. What can
   * still change (which nodes there are, the session's settings) is read here; the texts, which are
   * most of the work, are made by whoever calls what is returned.
   */
  def json(plan: SparkPlan): () => ObjectNode = {
    val conf = SQLConf.get
    val shown = look(plan)
    () => SQLConf.withExistingConf(conf)(shown.json(conf.maxToStringFields))
  }

  private final case class Shown(
      plan: QueryPlan[_],
      metadata: Map[String, String],
      below: Seq[Shown]
  ) {
    def json(maxFields: Int): ObjectNode = {
      val made = Json.obj()
      made.put("nodeName", plan.nodeName)
      made.put("simpleString", plan.simpleString(maxFields))
      val children = made.putArray("children")
      below.foreach(child => children.add(child.json(maxFields)))
      val about = made.putObject("metadata")
      metadata.foreach { case (key, value) => about.put(key, value) }
      made
    }
  }

  private def look(plan: QueryPlan[_]): Shown = {
    val metadata = plan match {
      case scan: FileSourceScanLike => scan.metadata
      case _ => Map.empty[String, String]
    }
    Shown(plan, metadata, children(plan).map(look))
  }
}
