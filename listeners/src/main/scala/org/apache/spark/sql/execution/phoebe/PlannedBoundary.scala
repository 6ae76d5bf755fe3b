package org.apache.spark.sql.execution.phoebe

import scala.util.Try

import org.apache.spark.sql.execution.SparkPlan
import org.apache.spark.sql.execution.adaptive.{AdaptiveSparkPlanExec, QueryStageExec}
import org.apache.spark.sql.execution.columnar.InMemoryTableScanExec
import org.apache.spark.sql.execution.exchange.{ReusedExchangeExec, ShuffleExchangeExec}

/**
 * One shuffle exchange of a fragment's first plan.
 *
 * @param node rank in the pre-order of the plan's `SparkPlanInfo`
 * @param boundaryId `e<k>`, k its rank among the fragment's exchanges
 */
private[phoebe] final case class PlannedBoundary(
    node: Int,
    boundaryId: String,
    exchange: ShuffleExchangeExec
) {
  private lazy val stats = exchange.child.logicalLink
    .orElse(exchange.child.collectFirst {
      case p if p.logicalLink.isDefined => p.logicalLink.get
    })
    .flatMap(link => Try(link.stats).toOption)
  lazy val catalystBytes: Option[BigInt] = stats.map(_.sizeInBytes).filter(_ < Long.MaxValue)
  lazy val catalystRows: Option[BigInt] = stats.flatMap(_.rowCount)
}

private[phoebe] object PlannedBoundary {

  /** The fragment's own shuffle exchanges (not those of subqueries), ranked as `SparkPlanInfo` ranks nodes. */
  def of(plan: SparkPlan): Seq[PlannedBoundary] = {
    val found = Seq.newBuilder[PlannedBoundary]
    var rank = -1
    var exchanges = 0
    def walk(node: SparkPlan, own: Boolean): Unit = {
      rank += 1
      node match {
        case exchange: ShuffleExchangeExec if own =>
          found += PlannedBoundary(rank, s"e$exchanges", exchange)
          exchanges += 1
        case _ =>
      }
      node match {
        case ReusedExchangeExec(_, child) => walk(child, own = false)
        case adaptive: AdaptiveSparkPlanExec => walk(adaptive.executedPlan, own = false)
        case stage: QueryStageExec => walk(stage.plan, own = false)
        case scan: InMemoryTableScanExec => walk(scan.relation.cachedPlan, own = false)
        case other =>
          other.children.foreach(walk(_, own))
          other.subqueries.foreach(walk(_, own = false))
      }
    }
    walk(plan, own = true)
    found.result()
  }
}
