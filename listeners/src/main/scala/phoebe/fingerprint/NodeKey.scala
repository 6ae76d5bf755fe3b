/*
 * A plan node with its arguments and inputs, as the key by which a re-plan finds the names of an earlier
 * plan of the same execution. Exact: nodes that are equal here have equal fingerprints.
 */
package phoebe.fingerprint

import org.apache.spark.sql.catalyst.TableIdentifier
import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.plans.logical.{JoinHint, LogicalPlan, Sort}
import org.apache.spark.sql.catalyst.trees.TreePattern.PLAN_EXPRESSION
import org.apache.spark.sql.execution.{phoebe => _, _}
import org.apache.spark.sql.execution.aggregate.BaseAggregateExec
import org.apache.spark.sql.execution.joins.BaseJoinExec
import org.apache.spark.sql.execution.window.{WindowExec, WindowGroupLimitExec}
import org.apache.spark.sql.types.{DataType, Metadata}
import phoebe.fingerprint.ExpressionText.isSparkSql

/**
 * Equal for the same operator with the same arguments, the same output columns, and the same relations
 * below. The relations below, and the listing of a scan, are compared by identity, because they are
 * cached themselves.
 */
private[fingerprint] final class NodeKey(
    private val plan: SparkPlan,
    private val below: Seq[Relation],
    private val listing: Listing = null
) {
  private val output = plan.output.map(_.exprId)

  override val hashCode: Int =
    below.foldLeft(plan.getClass.hashCode * 31 + output.hashCode)((h, r) =>
      h * 31 + System.identityHashCode(r)
    )

  override def equals(other: Any): Boolean = other match {
    case o: NodeKey =>
      (o eq this) || (plan.getClass == o.plan.getClass && output == o.output &&
        (listing eq o.listing) && NodeKey.isAsked(plan) == NodeKey.isAsked(
          o.plan
        ) && below.corresponds(o.below)(_ eq _) &&
        plan.productIterator.corresponds(o.plan.productIterator)(NodeKey.same))
    case _ => false
  }
}

private[fingerprint] object NodeKey {

  /** Operators whose relation depends only on their arguments and on the relations below. */
  def suits(plan: SparkPlan): Boolean =
    (plan match {
      case _: ProjectExec | _: FilterExec | _: BaseAggregateExec | _: BaseJoinExec | _: UnionExec |
          _: ExpandExec | _: GenerateExec | _: WindowExec | _: WindowGroupLimitExec | _: SortExec |
          _: CoalesceExec =>
        true
      case _ => false
    }) && AllowList.operators(plan.getClass.getName) &&
      !hasSubquery(plan)

  /** Whether a sort is the query's own, and not one that Spark needs for what is above. */
  def isAsked(plan: SparkPlan): Boolean = plan match {
    case s: SortExec => s.getTagValue(SparkPlan.LOGICAL_PLAN_TAG).exists(_.isInstanceOf[Sort])
    case _ => false
  }

  def hasSubquery(plan: SparkPlan): Boolean = plan.containsPattern(PLAN_EXPRESSION) &&
    plan.expressions.exists(_.containsPattern(PLAN_EXPRESSION))

  /** Whether two logical nodes are equal, without their children and hints. */
  def sameNode(a: LogicalPlan, b: LogicalPlan): Boolean = {
    def argument(x: Any, y: Any): Boolean = (x, y) match {
      case (p: LogicalPlan, q: LogicalPlan) =>
        (p eq q) || (a.children.exists(_ eq p) && b.children.exists(_ eq q))
      case (_: JoinHint, _: JoinHint) => true
      case (x: scala.collection.Seq[_], y: scala.collection.Seq[_]) =>
        x.size == y.size && x.corresponds(y)(argument)
      case _ => same(x, y)
    }
    a.getClass == b.getClass && a.productIterator.corresponds(b.productIterator)(argument)
  }

  /** Structural equality. False where it is not certain; then the node is computed once more. */
  def same(a: Any, b: Any): Boolean =
    (a.asInstanceOf[AnyRef] eq b.asInstanceOf[AnyRef]) || ((a, b) match {
      case (_: SparkPlan, _: SparkPlan) => true // what is below, compared by its relations
      case (_: Literal, _: Literal) => false // equal values may differ in their bits: -0.0
      case (x: AttributeReference, y: AttributeReference) =>
        x.exprId == y.exprId && x.name == y.name && x.dataType == y.dataType &&
        x.metadata == y.metadata
      case (x: Alias, y: Alias) =>
        x.exprId == y.exprId && x.name == y.name && same(x.child, y.child)
      case (x: Expression, y: Expression) =>
        x.getClass == y.getClass && x.productIterator.corresponds(y.productIterator)(same)
      case (x: scala.collection.Seq[_], y: scala.collection.Seq[_]) =>
        x.size == y.size && x.corresponds(y)(same)
      case (Some(x), Some(y)) => same(x, y)
      case (x: ExprId, y: ExprId) => x == y
      case (x: DataType, y: DataType) => x == y
      case (x: Product, y: Product) if isSparkSql(x.getClass.getName) =>
        x.getClass == y.getClass && x.productIterator.corresponds(y.productIterator)(same)
      case (x: Metadata, y: Metadata) => x == y
      case (x: TableIdentifier, y: TableIdentifier) => x == y
      case (x: String, y: String) => x == y
      case (x: java.lang.Boolean, y: java.lang.Boolean) => x == y
      case (x: java.lang.Integer, y: java.lang.Integer) => x == y
      case (x: java.lang.Long, y: java.lang.Long) => x == y
      case (x: scala.Enumeration#Value, y: scala.Enumeration#Value) => x == y
      case _ => false
    })
}
