/*
 * What adaptive execution made of a fragment's first logical plan. Where an input turns out to be
 * empty, or to have one row, AQE drops the join, the branch or the sort that this makes needless: the
 * rows stay the same, and the plan no longer shows where they came from. The nodes of the new plan
 * are matched here with those of the first one, so that what is above keeps its name.
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
 * One for each SQL execution. Only nodes above something that was dropped are answered for; all
 * others are named by what they are. Two plans match as a whole or not at all: each node says what its
 * partner says, or was dropped in one of the ways in which `AQEOptimizer` of Spark 4.2 drops nodes.
 * Where rules of others take part in that, nothing is answered.
 */
private[fingerprint] final class ReplanMatcher(session: SparkSession) {
  import ReplanMatcher._

  private val fragments = mutable.Buffer.empty[LogicalPlan]
  private val named = new IdentityHashMap[LogicalPlan, Relation]
  private var replanned = new IdentityHashMap[LogicalPlan, LogicalPlan]
  private var first = false

  /** The pass that begins is over this plan, whole. */
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

  /** How a plan follows from the first one of its fragment. */
  private def of(now: LogicalPlan): Option[Match] =
    fragments.iterator.filter(was => (was ne now) && ids(was.output) == ids(now.output))
      .map(matched(_, now)).collectFirst { case Some(found) => found }

  /** The name that a node had on the first plan, where that cannot be seen in this plan any more. */
  def before(plan: SparkPlan): Option[Relation] =
    if (replanned.isEmpty) None
    else for {
      now <- plan.getTagValue(SparkPlan.LOGICAL_PLAN_TAG)
      was <- Option(replanned.get(now))
      relation <- Option(named.get(was))
      if plan.output.forall(a => relation.env.names.contains(a.exprId))
    } yield relation

  /** A first plan's node was named: the top one of those that its logical node was planned as. */
  def name(plan: SparkPlan, relation: Relation): Unit =
    if (first) plan.getTagValue(SparkPlan.LOGICAL_PLAN_TAG).foreach(named.put(_, relation))
}

object ReplanMatcher {

  /** Whether a plan is a re-plan: it shows what ran before. (A whole fragment may have come to nothing.) */
  def isReplan(plan: SparkPlan): Boolean = plan.exists {
    case _: QueryStageExec | _: EmptyRelationExec => true
    case _ => false
  }

  /** Two nodes with the same rows; `dropped` when something at or below `now` was dropped. */
  private final case class Pair(now: LogicalPlan, was: LogicalPlan, dropped: Boolean)

  private final case class Match(pairs: Vector[Pair], dropped: Boolean)

  /** Exchanges and sorts that requirements add on top have no logical node of their own. */
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

  /** The node is there, whatever became of its children. */
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

  /** `PropagateEmptyRelationBase`, `EliminateLimits` and `OptimizeOneRowPlan`: what is left of a node without need. */
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

  /** Whether a projection keeps a side's columns and fills the others with nothing. */
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

  /** Branches without rows are gone; with the first of them, a projection keeps the columns' ids. */
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

  /** Those left, each with the next one that it can have been. */
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
