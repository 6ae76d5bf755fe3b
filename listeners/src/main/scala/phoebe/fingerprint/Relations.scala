/*
 * Canonical identity of the rows that a physical subtree yields, as a multiset: equal on a query's
 * first plan, on every re-plan and in the next application. See docs/fingerprint.md.
 */
package phoebe.fingerprint

import scala.collection.mutable
import scala.util.{Either, Left, Right}

import org.apache.spark.sql.SparkSession
import org.apache.spark.sql.catalyst.expressions.{Left => _, Right => _, _}
import org.apache.spark.sql.catalyst.plans.{ExistenceJoin, InnerLike, JoinType, LeftExistence}
import org.apache.spark.sql.catalyst.trees.TreeNodeTag
import org.apache.spark.sql.execution.{phoebe => _, _}
import org.apache.spark.sql.execution.adaptive._
import org.apache.spark.sql.execution.aggregate._
import org.apache.spark.sql.execution.exchange._
import org.apache.spark.sql.execution.joins._
import org.apache.spark.sql.execution.window.{WindowExec, WindowGroupLimitExec}
import org.apache.spark.sql.execution.phoebe.compat.SparkVersion
import phoebe.fingerprint.ExpressionText.{unalias, Env}

/** A node in place of a subtree that will not run. The fingerprint uses the original subtree. */
trait CarriesOriginal {
  def original: SparkPlan
}

/**
 * @param hash
 *   identity of the multiset of rows, for any choice of their columns
 * @param env
 *   canonical names of the columns; a name says how the column is computed from the rows
 * @param inputs
 *   the listings of files that were read
 * @param output
 *   the output columns, in order; set when the node's relation is complete
 * @param spread
 *   the distribution over tasks that the query itself requests below; values that depend on it
 *   (`RowOrder.isExact`) are named by it; empty if the query requests none
 */
private[fingerprint] final case class Relation(
    hash: String,
    env: Env,
    inputs: Set[Listing],
    output: Seq[ExprId] = Nil,
    spread: String = ""
) {

  /** A name for a value computed from these rows. */
  def named(name: String, isExact: Boolean): String =
    if (isExact || spread.isEmpty) name else Digest.of("spread", name, spread)
}

/**
 * Walks plans bottom-up, every node once. One for each SQL execution: a relation of an earlier plan is
 * reused for every equal node over the same inputs, so a re-plan costs only its new nodes. Not
 * thread-safe.
 *
 * @param settingsOf
 *   the settings with which a session's relations are read, if they differ from those that the
 *   fingerprint has anyway
 */
private[fingerprint] final class Relations(
    lineage: ReplanMatcher,
    settingsOf: SparkSession => Option[String] = _ => None
) {
  import Relations._

  // Nodes of the current pass. Query stages are kept as long as the execution.
  private val nodes = new java.util.IdentityHashMap[SparkPlan, Either[Refusal, Relation]]
  private val stages = new java.util.IdentityHashMap[SparkPlan, Relation]
  private val made = mutable.HashMap.empty[NodeKey, Either[Refusal, Relation]]
  private val subqueryInputs = mutable.Set.empty[Listing]
  val text = new ExpressionText(subquery, pruning)

  /** Forgets the nodes of the current plan after its fingerprints were computed. */
  def endPass(): Unit = nodes.clear()

  def apply(plan: SparkPlan): Relation = {
    var known = nodes.get(plan)
    if (known == null) {
      known = attempt(lineage.before(plan).fold(of(plan))(restrict(plan, _)))
      known.foreach(lineage.name(plan, _))
      nodes.put(plan, known)
    }
    known.fold(refusal => throw new Refused(refusal), identity)
  }

  /** The relation of an equal node over the same relations, in this plan or an earlier one. */
  private def once(key: NodeKey)(relation: => Relation): Relation =
    made.getOrElseUpdate(key, attempt(relation))
      .fold(refusal => throw new Refused(refusal), identity)

  private def attempt(relation: => Relation): Either[Refusal, Relation] =
    try Right(relation)
    catch { case r: Refused => Left(r.refusal) }

  private def of(plan: SparkPlan): Relation = plan match {
    case stage: QueryStageExec =>
      var relation = stages.get(stage)
      if (relation == null) {
        relation = restrict(stage, visit(stage))
        stages.put(stage, relation)
      }
      relation
    case _ if NodeKey.suits(plan) =>
      once(new NodeKey(plan, plan.children.map(apply)))(restrict(plan, visit(plan)))
    case scan: FileSourceScanExec if AllowList.operators(scan.getClass.getName) =>
      val listing = Sources.listing(scan, text)
      // Another session's settings may change from plan to plan, as this one's may.
      if (NodeKey.hasSubquery(scan) || settings(scan).isDefined)
        restrict(scan, visitScan(scan, listing))
      else once(new NodeKey(scan, Nil, listing))(restrict(scan, visitScan(scan, listing)))
    case _ => restrict(plan, visit(plan))
  }

  private def visitScan(scan: FileSourceScanExec, listing: Listing): Relation =
    withSubqueries(scan.partitionFilters ++ scan.dataFilters)(
      Sources.files(scan, listing, text, settings(scan))
    )

  private def settings(scan: FileSourceScanExec): Option[String] =
    settingsOf(scan.relation.sparkSession)

  /** Keeps only the names of a node's output columns. */
  private def restrict(plan: SparkPlan, r: Relation): Relation = {
    val output = plan.output
    val ids = output.map(_.exprId)
    if (ids == r.output) r
    else {
      val names = output.flatMap(a => r.env.get(a).map(a.exprId -> _)).toMap
      r.copy(env = Env(names), output = ids)
    }
  }

  private def visit(plan: SparkPlan): Relation = plan match {
    case c: CarriesOriginal => apply(c.original)
    case e: ShuffleExchangeLike =>
      val below = remembered(e, e.child)
      // The same object if there is nothing to add, because nodes above are cached by it.
      if (e.shuffleOrigin == ENSURE_REQUIREMENTS) below
      else once(new NodeKey(e, Seq(below)))(repartitioned(e, below))
    case e: BroadcastExchangeLike => remembered(e, e.child)
    case _ if !AllowList.operators(plan.getClass.getName) => refuse(plan)

    case r: ReusedExchangeExec => renamed(apply(r.child), r.child.output, r.output)
    case s: QueryStageExec => renamed(apply(s.plan), s.plan.output, s.output)
    case a: AdaptiveSparkPlanExec => apply(a.inputPlan) // not the plan that AQE made of it
    case s: SubqueryBroadcastExec => apply(s.child)
    case r: ReusedSubqueryExec => apply(r.child)
    case s: SortExec => sorted(s)
    case c @ (_: WholeStageCodegenExec | _: InputAdapter | _: ColumnarToRowExec |
        _: RowToColumnarExec | _: AQEShuffleReadExec | _: SubqueryExec) =>
      apply(c.children.head)
    case CoalesceExec(number, child) =>
      val below = apply(child)
      below.copy(spread = Digest.of("coalesce", below.spread, number.toString))

    case s: LocalTableScanExec => Sources.rows(s)
    case r: RangeExec =>
      if (r.range.isStreaming) Refused.source("streaming", "Range", "it is a stream")
      val hash = Digest.of("range", r.start.toString, r.end.toString, r.step.toString)
      val spread = r.range.numSlices.fold("")(n => Digest.of("slices", n.toString))
      Sources.positional("range", hash, r.output).copy(spread = spread)
    case one if SparkVersion.isOneRow(one) =>
      Sources.positional("one-row", Digest.of("one-row"), one.output)
    case e: EmptyRelationExec => Sources.positional("empty", Digest.of("empty"), e.output)

    case ProjectExec(list, child) => withSubqueries(list)(project(list, apply(child)))
    case FilterExec(condition, child) => withSubqueries(Seq(condition)) {
        val below = apply(child)
        val conjuncts = text.conjuncts(Seq(condition), below.env)
        if (conjuncts.isEmpty) below
        else {
          below.copy(
            hash = new Digest("filter").add(below.hash).addAll(conjuncts).hex(),
            output = Nil
          )
        }
      }
    case a: BaseAggregateExec => withSubqueries(a.expressions)(Aggregates(a, apply(a.child), text))
    case j: BaseJoinExec => withSubqueries(j.expressions)(join(j, apply(j.left), apply(j.right)))
    case UnionExec(children) => union(children, plan.output)
    case e: ExpandExec => expand(e, apply(e.child))
    case g: GenerateExec => withSubqueries(Seq(g.generator)) {
        val below = apply(g.child)
        val generator = text.text(g.generator, below.env)
        val hash = Digest.of("generate", below.hash, generator, g.outer.toString)
        val made = g.generatorOutput.zipWithIndex
          .map { case (a, i) => a.exprId -> Digest.of("generated", hash, i.toString) }
        below.copy(hash = hash, env = Env(below.env.names ++ made), output = Nil)
      }
    case w: WindowExec => withSubqueries(w.expressions) {
        val below = apply(w.child)
        // A window adds columns, but no rows.
        val made = w.windowExpression.map { e =>
          val name = Digest.of("window", below.hash, text.text(unalias(e), below.env))
          e.exprId -> below.named(name, RowOrder.isExact(e))
        }
        below.copy(env = Env(below.env.names ++ made), output = Nil)
      }
    case w: WindowGroupLimitExec =>
      val below = apply(w.child)
      val hash = new Digest("window-limit").add(below.hash)
        .addAll(w.partitionSpec.map(text.text(_, below.env)))
        .addAll(w.orderSpec.map(text.text(_, below.env)))
        .add(text.text(w.rankLikeFunction, below.env))
        .add(w.limit.toLong).add(w.mode.toString).hex()
      below.copy(hash = hash, output = Nil)
    case _: TakeOrderedAndProjectExec =>
      Refused.refuse(
        "limit_with_ties",
        Map("operator" -> plan.nodeName),
        "Rows that tie at an ordered limit may be other ones on another run."
      )
    case _ => Refused.operator(plan.getClass.getName)
  }

  /**
   * AQE may drop a pruning predicate when it makes a stage, and the plan then no longer shows it. So the
   * earlier relation is kept as a tag on the exchange (tags follow a node through its copies). If the
   * output differs, the tag belongs to another node.
   */
  private def remembered(exchange: Exchange, child: SparkPlan): Relation = {
    val ids = exchange.output.map(_.exprId)
    exchange.getTagValue(tag) match {
      case Some(Remembered(`ids`, relation)) => relation
      case _ =>
        val relation = apply(child)
        exchange.setTagValue(tag, Remembered(ids, relation))
        relation
    }
  }

  /**
   * Adds a distribution that the query requests by a hint or `repartition`. Spark then cannot choose how
   * rows are distributed, so some order-dependent values are no longer possible. If the query gives no
   * number of partitions, Spark may take any.
   */
  private def repartitioned(e: ShuffleExchangeLike, below: Relation): Relation = {
    // Not the exchange's own number: for a range partitioning it would need a sample of the rows.
    val how = e.outputPartitioning
    val number = if (e.shuffleOrigin == REPARTITION_BY_NUM) how.numPartitions.toString else ""
    val by = how match {
      case by: Expression =>
        try by.children.map(text.text(_, below.env))
        catch { case _: Refused => Seq("by chance") }
      case _ => Nil
    }
    below.copy(spread =
      new Digest("repartition").add(below.spread).add(e.shuffleOrigin.toString)
        .add(how.getClass.getName).add(number).addAll(by).hex()
    )
  }

  /**
   * The query's own order is one more way to spread rows. Sorts that Spark needs (for joins, windows) are
   * its own choice.
   */
  private def sorted(s: SortExec): Relation = {
    val below = apply(s.child)
    val by = s.sortOrder.map(text.text(_, below.env)) // an order by `rand()` is no order
    if (!NodeKey.isAsked(s)) below
    else below.copy(spread =
      new Digest("sort").add(below.spread).add(s.global.toString).addAll(by).hex()
    )
  }

  private def together(spreads: String*): String =
    if (spreads.forall(_.isEmpty)) "" else new Digest("together").addAll(spreads).hex()

  private def renamed(r: Relation, from: Seq[Attribute], to: Seq[Attribute]): Relation = {
    val names = from.zip(to).flatMap { case (f, t) => r.env.get(f).map(t.exprId -> _) }
    r.copy(env = Env(names.toMap), output = Nil)
  }

  /** A projection gives names and does not change the rows. */
  private def project(list: Seq[NamedExpression], below: Relation): Relation = {
    // Delta puts all of a file's metadata into a struct, and then reads one field of it.
    def name(e: NamedExpression): String =
      try text.name(e, below.env)
      catch {
        case r: Refused if r.refusal.code == Refused.metadataColumnCode =>
          ExpressionText.unstableName(e.name)
      }
    below.copy(env = Env(list.map(e => e.exprId -> name(e)).toMap), output = Nil)
  }

  private def join(j: BaseJoinExec, left: Relation, right: Relation): Relation = {
    def qualified(side: String, env: Env) = env.names.map { case (id, name) =>
      id -> (if (ExpressionText.isUnstable(name)) name else Digest.of(side, name))
    }
    val l = qualified("left", left.env)
    val r = qualified("right", right.env)
    val keys = j.leftKeys.zip(j.rightKeys).map { case (a, b) =>
      text.text(a, left.env) + "=" + text.text(b, right.env)
    }
    val nullAware = j match {
      case b: BroadcastHashJoinExec => b.isNullAwareAntiJoin
      case _ => false
    }
    val hash = new Digest("join").add(kind(j.joinType)).add(nullAware.toString)
      .add(left.hash).add(right.hash)
      .addAll(keys.distinct.sorted)
      .addAll(text.conjuncts(j.condition, Env(l ++ r)))
      .hex()
    val env = j.joinType match {
      case ExistenceJoin(exists) => l + (exists.exprId -> Digest.of("exists", hash))
      case LeftExistence(_) => l
      case _ => l ++ r
    }
    Relation(
      hash,
      Env(env),
      left.inputs ++ right.inputs,
      spread = together(left.spread, right.spread)
    )
  }

  private def kind(t: JoinType): String = t match {
    case _: InnerLike => "inner"
    case _: ExistenceJoin => "existence"
    case other => other.sql
  }

  private def union(children: Seq[SparkPlan], output: Seq[Attribute]): Relation = {
    val below = children.map(apply)
    val hash = new Digest("union").addAll(below.map(_.hash)).hex()
    val names = output.indices.map { i =>
      val origins = children.zip(below).map { case (c, r) => r.env(c.output(i)) }
      output(i).exprId -> new Digest("union-column").add(hash).addAll(origins).hex()
    }
    Relation(
      hash,
      Env(names.toMap),
      below.flatMap(_.inputs).toSet,
      spread = together(below.map(_.spread): _*)
    )
  }

  private def expand(e: ExpandExec, below: Relation): Relation = {
    val projections = e.projections.map(_.map(text.text(_, below.env)))
    val digest = new Digest("expand").add(below.hash)
    projections.foreach(digest.addAll(_))
    val hash = digest.hex()
    // By position: readers may distinguish two output columns with the same contents.
    val names = e.output.indices
      .map(i => e.output(i).exprId -> Digest.of("expanded", hash, i.toString))
    below.copy(hash = hash, env = Env(names.toMap), output = Nil)
  }

  private def withSubqueries(expressions: Seq[Expression])(make: => Relation): Relation = {
    if (!expressions.exists(SubqueryExpressions.in)) {
      make
    } else {
      val outer = subqueryInputs.toSet
      subqueryInputs.clear()
      try {
        val relation = make
        relation.copy(inputs = relation.inputs ++ subqueryInputs, output = Nil)
      } finally subqueryInputs ++= outer
    }
  }

  /** Names a subquery by its plan, never by its result: the name is the same before and after it ran. */
  private def subquery(plan: BaseSubqueryExec): String = {
    val relation = apply(plan)
    subqueryInputs ++= relation.inputs
    new Digest("subquery").add(relation.hash).addAll(plan.output.map(relation.env(_))).hex()
  }

  /**
   * `value IN (keys of a join's other side)`, in the three shapes that planning gives it. The rows of a
   * pruned and of an unpruned scan differ. But readers with this predicate accept any superset of the rows
   * that it lets through, and its text separates them from all other readers.
   */
  private def pruning(in: InSubqueryExec): String = {
    def keys(side: SparkPlan, keys: Seq[Expression]): String = {
      val relation = apply(side)
      subqueryInputs ++= relation.inputs
      new Digest("pruning").add(relation.hash).addAll(keys.map(text.name(_, relation.env))).hex()
    }
    def unwrap(plan: SparkPlan): SparkPlan = plan match {
      case a: AdaptiveSparkPlanExec => unwrap(a.inputPlan)
      case r: ReusedSubqueryExec => unwrap(r.child)
      case e: Exchange => unwrap(e.child)
      case other => other
    }
    def distinctOf(plan: SparkPlan): (SparkPlan, Seq[Expression]) = unwrap(plan) match {
      case a: BaseAggregateExec if a.aggregateExpressions.isEmpty =>
        unwrap(a.child) match {
          case partial: BaseAggregateExec if partial.aggregateExpressions.isEmpty =>
            (unwrap(partial.child), partial.groupingExpressions)
          case child => (child, a.groupingExpressions)
        }
      case other => (other, other.output)
    }
    val side = unwrap(in.plan) match {
      case s: SubqueryAdaptiveBroadcastExec => keys(unwrap(s.child), s.indices.map(s.buildKeys))
      case s: SubqueryBroadcastExec => keys(unwrap(s.child), s.indices.map(s.buildKeys))
      case s: SubqueryExec =>
        val (child, grouping) = distinctOf(s.child)
        keys(child, grouping)
      case other => Refused.operator(other.getClass.getName)
    }
    pruned(in.child, side)
  }

  /** Pruned columns are the scan's own, so within its text their plain names are enough. */
  private def pruned(value: Expression, side: String): String =
    text.text(value, Env(value.references.map(a => a.exprId -> a.name).toMap)) + side

  private def refuse(plan: SparkPlan): Nothing = {
    val name = plan.getClass.getName
    val short = plan.nodeName
    name.stripPrefix(sql) match {
      case "CollectMetricsExec" => Refused.refuse(
          "observed_metrics",
          Map("operator" -> short),
          "Metrics are observed below this exchange."
        )
      case "CollectLimitExec" | "LocalLimitExec" | "GlobalLimitExec" | "CollectTailExec" =>
        Refused.refuse(
          "limit_without_order",
          Map("operator" -> short),
          "A limit without an order picks other rows on another run."
        )
      case "RDDScanExec" | "ExternalRDDScanExec" =>
        Refused.source("rdd_source", short, "an RDD has no stable identity")
      case "RowDataSourceScanExec" =>
        Refused.source("unknown_source", short, "it cannot be looked at again")
      case n if n.startsWith("datasources.v2.") =>
        Refused.source("unknown_source", short, "data source V2 has no versions that all share")
      case n if n.startsWith("columnar.") || n.contains("TableCacheQueryStage") =>
        Refused.source("cached_relation", short, "cached rows may be of an older state")
      case n if n.startsWith("streaming.") =>
        Refused.source("streaming", short, "it is a stream")
      case n if n.startsWith("python.") || n.startsWith("r.") => Refused.udf(short)
      case n if typed(n) =>
        Refused.refuse(
          "typed_operation",
          Map("operator" -> short),
          s"$short runs user code on objects."
        )
      case "SampleExec" => Refused.nondeterministic(short)
      case _ => Refused.operator(name)
    }
  }
}

private[fingerprint] object Relations {
  private val sql = "org.apache.spark.sql.execution."

  private val typed = Set(
    "DeserializeToObjectExec",
    "SerializeFromObjectExec",
    "MapPartitionsExec",
    "MapElementsExec",
    "AppendColumnsExec",
    "AppendColumnsWithObjectExec",
    "MapGroupsExec",
    "CoGroupExec"
  )

  /** Whether an operator passes rows to user code or to another language. */
  def runsUserCode(plan: SparkPlan): Boolean = {
    val name = plan.getClass.getName.stripPrefix(sql)
    name.startsWith("python.") || name.startsWith("r.") || typed(name)
  }

  private final case class Remembered(ids: Seq[ExprId], relation: Relation)
  private val tag = TreeNodeTag[Remembered]("phoebe.relation")
}
