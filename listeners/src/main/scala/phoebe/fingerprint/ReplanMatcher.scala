/*
 * Matches a re-plan's logical plan with the fragment's first one. Where an input turns out to be empty,
 * or to have one row, AQE drops the join, the branch or the sort that is then needless. The rows stay
 * the same, but the plan no longer shows where they came from. With the matched node of the first plan,
 * the nodes above keep their names.
 */
package phoebe.fingerprint

import java.util.IdentityHashMap

import scala.collection.mutable

import org.apache.spark.sql.catalyst.expressions.{Attribute, Expression, ExprId, NamedExpression}
import org.apache.spark.sql.catalyst.expressions.aggregate.AggregateExpression
import org.apache.spark.sql.catalyst.plans.{FullOuter, LeftAnti, LeftOuter, LeftSemi, RightOuter}
import org.apache.spark.sql.catalyst.plans.logical._
import org.apache.spark.sql.classic.SparkSession
import org.apache.spark.sql.execution.{EmptyRelationExec, SparkPlan}
import org.apache.spark.sql.execution.adaptive.{LogicalQueryStage, QueryStageExec}
import org.apache.spark.sql.execution.phoebe.compat.SparkInternals
import phoebe.fingerprint.ExpressionText.unalias

/**
 * One for each SQL execution. It names only nodes above something that was dropped; all others are
 * named by their own contents. Two plans match as a whole or not at all: each node equals its partner,
 * or was dropped in one of the ways in which `AQEOptimizer` of Spark 4.2 drops nodes. If rules of other
 * extensions take part, it names nothing.
 */
private[fingerprint] final class ReplanMatcher(session: SparkSession) {
  import ReplanMatcher._

  private val fragments = mutable.Buffer.empty[LogicalPlan]
  private val named = new IdentityHashMap[LogicalPlan, Relation]
  private var replanned = new IdentityHashMap[LogicalPlan, LogicalPlan]
  private var first = false

  /** Begins a pass over this whole plan. */
  def begin(plan: SparkPlan): Unit = {
    replanned = new IdentityHashMap
    val now = root(plan)
    val earlier = now.flatMap(of)
    first = earlier.isEmpty && !isReplan(plan)
    if (first) fragments ++= now
    else if (session.sessionState.adaptiveRulesHolder.runtimeOptimizerRules.isEmpty) {
      for (m <- earlier; p <- m.pairs if p.dropped) replanned.put(p.now, p.was)
    }
  }

  /** The match of a plan with the first one of its fragment. */
  private def of(now: LogicalPlan): Option[Match] =
    fragments.iterator.filter(was => (was ne now) && ids(was.output) == ids(now.output))
      .map(matched(_, now)).collectFirst { case Some(found) => found }

  /** A node's relation on the first plan, if this plan no longer shows it. */
  def before(plan: SparkPlan): Option[Relation] =
    if (replanned.isEmpty) None
    else for {
      now <- plan.getTagValue(SparkPlan.LOGICAL_PLAN_TAG)
      was <- Option(replanned.get(now))
      relation <- Option(named.get(was))
      if plan.output.forall(a => relation.env.names.contains(a.exprId))
    } yield relation

  /** Notes the relation of a first plan's node, by its logical node; the topmost physical node wins. */
  def name(plan: SparkPlan, relation: Relation): Unit =
    if (first) plan.getTagValue(SparkPlan.LOGICAL_PLAN_TAG).foreach(named.put(_, relation))
}

object ReplanMatcher {

  /** Whether a plan is a re-plan: it has query stages or empty relations (even a whole fragment). */
  def isReplan(plan: SparkPlan): Boolean = plan.exists {
    case _: QueryStageExec | _: EmptyRelationExec => true
    case _ => false
  }

  /** Two nodes with the same rows; `dropped` when something at or below `now` was dropped. */
  private final case class Pair(now: LogicalPlan, was: LogicalPlan, dropped: Boolean)

  private final case class Match(pairs: Vector[Pair], dropped: Boolean)

  /** A plan's logical node. Exchanges and sorts added on top by requirements have none of their own. */
  @scala.annotation.tailrec
  def root(plan: SparkPlan): Option[LogicalPlan] =
    plan.getTagValue(SparkPlan.LOGICAL_PLAN_TAG) match {
      case None if plan.children.size == 1 => root(plan.children.head)
      case found => found
    }

  private def ids(output: Seq[Attribute]): Seq[ExprId] = output.map(_.exprId)

  private def matched(was: LogicalPlan, now: LogicalPlan): Option[Match] =
    if (was eq now) Some(Match(Vector.empty, dropped = false))
    else {
      val found = now match {
        case s: LogicalQueryStage => matched(was, s.logicalPlan)
        case e: EmptyRelation => matched(was, e.logical).map(_.copy(dropped = true))
        case _ => alike(was, now).orElse(dropped(was, now))
      }
      found.map(m => m.copy(pairs = m.pairs :+ Pair(now, was, m.dropped)))
    }

  /** The node itself is unchanged; its children may differ. */
  private def alike(was: LogicalPlan, now: LogicalPlan): Option[Match] =
    if (
      was.getClass != now.getClass || was.children.size != now.children.size ||
      !NodeKey.sameNode(was, now)
    ) None
    else all(was.children.zip(now.children))

  private def all(nodes: Seq[(LogicalPlan, LogicalPlan)]): Option[Match] =
    nodes.foldLeft(Option(Match(Vector.empty, dropped = false))) { case (so, (was, now)) =>
      so.flatMap(s =>
        matched(was, now).map(m => Match(s.pairs ++ m.pairs, s.dropped || m.dropped))
      )
    }

  /** What `PropagateEmptyRelationBase`, `EliminateLimits` and `OptimizeOneRowPlan` leave of a needless node. */
  private def dropped(was: LogicalPlan, now: LogicalPlan): Option[Match] = {
    val left = (was, now) match {
      case (j: Join, Project(list, child)) if ids(list.map(_.toAttribute)) == ids(j.output) =>
        val kept = if (ids(child.output) == ids(j.left.output)) j.left else j.right
        (j.joinType, kept eq j.left) match {
          case (FullOuter, _) | (LeftOuter, true) | (RightOuter, false) if nullsBut(list, kept) =>
            matched(kept, child)
          case _ => None
        }
      case _ => None
    }
    left.orElse(was match {
      case j: Join if j.joinType == LeftAnti || j.joinType == LeftSemi => matched(j.left, now)
      case u: Union => union(u, now)
      case one @ (_: Sort | _: GlobalLimit | _: LocalLimit) => matched(one.children.head, now)
      case a: Aggregate => now match {
          case Project(list, child)
              if SparkInternals.hasKeysOnly(a) && NodeKey.same(a.aggregateExpressions, list) =>
            matched(a.child, child)
          case b: Aggregate if NodeKey.sameNode(undistinct(a), b) => matched(a.child, b.child)
          case _ => None
        }
      case _ => None
    }).map(_.copy(dropped = true))
  }

  /** Whether a projection keeps one side's columns and fills the others with NULL. */
  private def nullsBut(list: Seq[NamedExpression], kept: LogicalPlan): Boolean = {
    val columns = kept.outputSet
    list.forall {
      case a: Attribute => columns.contains(a)
      case other => other.foldable || other.children.forall(_.foldable)
    }
  }

  private def undistinct(a: Aggregate): LogicalPlan = a.transformExpressions {
    case e: AggregateExpression if e.isDistinct => e.copy(isDistinct = false)
  }

  /** Branches without rows were dropped. If the first one was, a projection keeps the columns' ids. */
  private def union(was: Union, now: LogicalPlan): Option[Match] = now match {
    case Union(left, byName, allowMissing)
        if byName == was.byName && allowMissing == was.allowMissingCol =>
      branches(was.children.toList, left.toList)
    case Project(list, rest) if ids(list.map(_.toAttribute)) == ids(was.output) =>
      rest match {
        case u: Union if list.map(unalias).corresponds(u.output)(isColumn) => union(was, u)
        case one if list.map(unalias).corresponds(one.output)(isColumn) =>
          branches(was.children.toList, List(one))
        case _ => branches(was.children.toList, List(now))
      }
    case one => branches(was.children.toList, List(one))
  }

  private def isColumn(e: Expression, column: Attribute): Boolean = e match {
    case a: Attribute => a.exprId == column.exprId
    case _ => false
  }

  /** Matches each branch that is left with the next original branch that fits. */
  private def branches(was: List[LogicalPlan], left: List[LogicalPlan]): Option[Match] =
    (was, left) match {
      case (_, Nil) => Some(Match(Vector.empty, dropped = true))
      case (Nil, _) => None
      case (one :: others, now :: rest) =>
        val here = if (ids(one.output) == ids(now.output)) matched(one, now) else None
        here.flatMap(m =>
          branches(others, rest).map(r => Match(m.pairs ++ r.pairs, dropped = true))
        ).orElse(branches(others, left))
    }
}
