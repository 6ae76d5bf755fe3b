package phoebe.planner

import scala.util.Try

import com.fasterxml.jackson.databind.node.ObjectNode

import org.apache.spark.sql.catalyst.plans.QueryPlan
import org.apache.spark.sql.execution.SparkPlan
import org.apache.spark.sql.execution.exchange.ShuffleExchangeExec
import phoebe.Json

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

  /** The boundary in a `plan` message (docs/protocol.md). */
  def toJson: ObjectNode = Json.obj(
    "node" -> node,
    "partitions" -> exchange.outputPartitioning.numPartitions,
    "catalyst_bytes" -> catalystBytes.map(_.toLong),
    "catalyst_rows" -> catalystRows.map(_.toLong)
  )
}

private[phoebe] object PlannedBoundary {

  /** The fragment's own shuffle exchanges (not those of subqueries), ranked as `SparkPlanInfo` ranks nodes. */
  def of(plan: SparkPlan): Seq[PlannedBoundary] = {
    val found = Seq.newBuilder[PlannedBoundary]
    var rank = -1
    var exchanges = 0
    def walk(node: QueryPlan[_], own: Boolean): Unit = {
      rank += 1
      node match {
        case exchange: ShuffleExchangeExec if own =>
          found += PlannedBoundary(rank, s"e$exchanges", exchange)
          exchanges += 1
        case _ =>
      }
      val below = PlanView.children(node)
      // Its own children come first, then subqueries and nodes that are only shown.
      val ownBelow = if (own) node.children.size else 0
      below.zipWithIndex.foreach { case (child, i) => walk(child, i < ownBelow) }
    }
    walk(plan, own = true)
    found.result()
  }
}
