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
   * Nodes with name, one-line string, metadata and children, as in `SparkPlanInfo`'s JSON. Made when
   * it is called, on any thread; the session's settings are read here.
   */
  def json(plan: SparkPlan): () => ObjectNode = {
    val maxFields = SQLConf.get.maxToStringFields
    def node(plan: QueryPlan[_]): ObjectNode = {
      val made = Json.obj()
      made.put("nodeName", plan.nodeName)
      made.put("simpleString", plan.simpleString(maxFields))
      val below = made.putArray("children")
      children(plan).foreach(child => below.add(node(child)))
      val metadata = made.putObject("metadata")
      plan match {
        case scan: FileSourceScanLike =>
          scan.metadata.foreach { case (key, value) => metadata.put(key, value) }
        case _ =>
      }
      made
    }
    () => node(plan)
  }
}
