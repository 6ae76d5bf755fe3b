/*
 * Finds the values of a query that depend on the order or the grouping of rows, the input columns that
 * they are computed from, and whether a stored run or this one computes them. This serves one rule: no
 * two consumers within a query see different results of the same computation.
 */
package phoebe.fingerprint

import java.util.{IdentityHashMap, Locale}

import scala.collection.mutable

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.expressions.aggregate._
import org.apache.spark.sql.catalyst.plans.QueryPlan
import org.apache.spark.sql.catalyst.plans.logical
import org.apache.spark.sql.catalyst.plans.logical.LogicalPlan
import org.apache.spark.sql.catalyst.trees.TreePattern.PLAN_EXPRESSION
import org.apache.spark.sql.catalyst.util.UnsafeRowUtils
import org.apache.spark.sql.execution.{phoebe => _, _}
import org.apache.spark.sql.execution.adaptive.{AdaptiveSparkPlanExec, QueryStageExec}
import org.apache.spark.sql.execution.aggregate.BaseAggregateExec
import org.apache.spark.sql.execution.columnar.{InMemoryRelation, InMemoryTableScanExec}
import org.apache.spark.sql.execution.datasources.{HadoopFsRelation, LogicalRelation}
import org.apache.spark.sql.execution.exchange.{ReusedExchangeExec, ShuffleExchangeLike}
import org.apache.spark.sql.execution.window.{WindowExec, WindowGroupLimitExec}
import org.apache.spark.sql.types._
import org.apache.spark.sql.execution.phoebe.compat.SparkVersion
import org.apache.spark.sql.execution.phoebe.compat.SparkInternals.{AnsiIntervalType, IntegralType}

private[phoebe] object RowOrder {

  /**
   * A boundary that is read from the store.
   *
   * @param run
   *   the SQL execution, of any application, that wrote it
   */
  final case class Stored(fingerprint: String, run: String)

  /**
   * The origin of a value: a column of an input, by its name or its position (without either, the order
   * of its rows), and the number of order-dependent computations since. Partial sums have one step, sums
   * two.
   */
  final case class Value(input: String, column: String, steps: Int)

  /**
   * One computation that depends on the order of rows.
   *
   * @param within
   *   the stored boundary above it, whose run did the computation; None if this query does it
   * @param rows
   *   how the rows of each input reach it: through a stored boundary, or (None) only through this query
   */
  final case class Computation(
      of: Set[Value],
      within: Option[Stored],
      rows: Map[String, Set[Option[Stored]]]
  ) {
    def boundaries: Set[Stored] = within.toSet ++ rows.values.flatten.flatten

    /** The same computation if this query computes a stored boundary itself. */
    def without(fingerprint: String): Computation = {
      def left(s: Option[Stored]) = s.filter(_.fingerprint != fingerprint)
      copy(within = left(within), rows = rows.map { case (i, all) => i -> all.map(left) })
    }

    def usesStore: Boolean = within.isDefined || rows.values.exists(_.exists(_.isDefined))

    private[RowOrder] def way(input: String) =
      (within.map(_.run), rows.getOrElse(input, Set.empty).map(_.map(_.run)))
  }

  /** All such computations of a plan, of its subqueries, and of the caches that it reads. */
  def computations(plan: SparkPlan, stored: SparkPlan => Option[Stored]): Seq[Computation] = {
    val walk = new Walk(stored)
    walk.visit(plan)
    walk.found.distinct.toSeq
  }

  /** The order-dependent values that a query computes outside of one of its parts, by input column. */
  def elsewhere(whole: LogicalPlan, part: Option[LogicalPlan]): Set[Value] = {
    def counts(plan: LogicalPlan) = {
      val walk = new Walk(_ => None)
      walk.visit(plan)
      walk.found.toSeq.flatMap(_.of).filter(_.steps == 0).groupBy(identity).map { case (v, all) =>
        v -> all.size
      }
    }
    val own = part.fold(Map.empty[Value, Int])(counts)
    counts(whole).collect { case (v, n) if n > own.getOrElse(v, 0) => v }.toSet
  }

  /**
   * The fingerprints of stored boundaries that must not be restored, each with the value that consumers
   * would see in two ways. Without the upper boundaries, lower ones may still be restored: call it again.
   */
  def contested(all: Seq[Computation], elsewhere: Set[Value]): Map[String, Value] = {
    val inputs = overlapping(all.flatMap(_.rows.keys) ++ elsewhere.map(_.input))
    def shared(v: Value) = v.copy(input = inputs(v.input))
    val others = elsewhere.map(shared)
    val uses = all.flatMap(c => c.of.map(v => (shared(v), v, c))).groupBy(_._1)
    // Of a column's two names the one to be shown comes last.
    uses.toSeq.sortBy(!_._1.column.startsWith(Place)).flatMap { case (value, same) =>
      val ways = same.map { case (_, own, c) => c.way(own.input) }.distinct
      val isOne = ways.size == 1 && !(others(value) && same.exists(_._3.usesStore))
      if (isOne) Nil
      else {
        val within = same.flatMap(_._3.within)
        val boundaries =
          if (within.nonEmpty) within
          else same.flatMap { case (_, own, c) => c.rows.getOrElse(own.input, Set.empty).flatten }
        boundaries.map(_.fingerprint -> value)
      }
    }.toMap
  }

  /**
   * The fingerprints of stored boundaries that are restored together or not at all: if this query computed
   * one of them itself, consumers would see a value in two ways.
   */
  def linked(all: Seq[Computation]): Set[String] =
    all.flatMap(_.boundaries.map(_.fingerprint)).toSet.filter(f =>
      contested(all.map(_.without(f)), Set.empty).nonEmpty
    )

  private val Place = "#"

  /** An input's paths, one per line; for many (a table's partitions after pruning) their common folder. */
  private def inputOf(paths: Seq[String]): String =
    if (paths.size <= FewPaths) paths.sorted.mkString("\n")
    else {
      val common = paths.reduce { (a, b) =>
        a.substring(
          0,
          a.zip(b).indexWhere { case (x, y) => x != y } match {
            case -1 => math.min(a.length, b.length)
            case at => at
          }
        )
      }
      common.substring(0, math.max(common.lastIndexOf('/'), 0))
    }

  private val FewPaths = 8

  /** Gives inputs that may have files in common the same name. */
  private def overlapping(inputs: Seq[String]): Map[String, String] = {
    def holds(a: String, b: String) = a == b || b.startsWith(a + "/")
    def meet(a: String, b: String) = a.split('\n').exists(p =>
      b.split('\n').exists(q => holds(p, q) || holds(q, p))
    )
    val groups = inputs.distinct.foldLeft(List.empty[List[String]]) { (groups, input) =>
      val (same, others) = groups.partition(_.exists(meet(_, input)))
      (input :: same.flatten) :: others
    }
    groups.flatMap(group => group.map(_ -> group.min)).toMap
  }

  /** Whether the value is the same for any order of its rows and any distribution over tasks. */
  def isExact(f: AggregateFunction): Boolean = f match {
    case _: Count | _: HyperLogLogPlusPlus | _: ApproxCountDistinctForIntervals |
        _: CountMinSketchAgg | _: BloomFilterAggregate | _: BitAndAgg | _: BitOrAgg |
        _: BitXorAgg | _: PivotFirst => true
    case s: Sum => SparkVersion.evalMode(s).exists(addsExactly(s.child.dataType, _))
    case a: Average => a.child.dataType match {
        case ByteType | ShortType => true // sums of them are exact in a double
        case _: IntegralType => false
        case t => addsExactly(t, a.evalMode)
      }
    case m: Max => comparesExactly(m.dataType)
    case m: Min => comparesExactly(m.dataType)
    case p: Percentile => comparesExactly(p.child.dataType)
    case p: PercentileDisc => comparesExactly(p.child.dataType)
    case _ => false
  }

  /**
   * Whole numbers wrap around, or a sum that overflows is an error, so the query has no value at all. With
   * `try_sum`, and for decimals without ANSI rules, it is NULL: then one order may overflow at a step where
   * another does not. Ten digits more than a summand's are enough for any sum.
   */
  private def addsExactly(t: DataType, mode: EvalMode.Value): Boolean = t match {
    case d: DecimalType => mode == EvalMode.ANSI || d.precision + 10 <= DecimalType.MAX_PRECISION
    case _: IntegralType | _: AnsiIntervalType => mode != EvalMode.TRY
    case _ => false
  }

  /** Among values that compare as equal (0.0 and -0.0, strings under a collation) the order decides. */
  private def comparesExactly(t: DataType): Boolean =
    UnsafeRowUtils.isBinaryStable(t) && !ExpressionText.hasFraction(t)

  /** As for an aggregate function. An expression that is no window depends on each row alone. */
  def isExact(e: NamedExpression): Boolean =
    e.collectFirst { case w: WindowExpression => w }.forall(isExact)

  private def isExact(w: WindowExpression): Boolean =
    !ExpressionText.countsRows(w) && (w.windowFunction match {
      case a: AggregateExpression => isExact(a.aggregateFunction)
      case f => ExpressionText.isKnown(f)
    })

  /** The origins of a plan's columns and of its row order, and how the rows of each input reach it. */
  private final case class Flow(
      columns: Map[ExprId, Set[Value]],
      order: Set[Value],
      inputs: Map[String, Set[Option[Stored]]]
  ) {
    def renamed(from: Seq[Attribute], to: Seq[Attribute]): Flow =
      copy(columns = from.zip(to).map { case (f, t) =>
        t.exprId -> columns.getOrElse(f.exprId, Set.empty[Value])
      }.toMap)
  }

  private val nothing = Flow(Map.empty, Set.empty, Map.empty)

  private def merged(flows: Iterable[Flow]): Flow = flows.foldLeft(nothing) { (a, b) =>
    Flow(
      a.columns ++ b.columns,
      a.order ++ b.order,
      b.inputs.foldLeft(a.inputs) { case (all, (input, rows)) =>
        all.updated(input, all.getOrElse(input, Set.empty) ++ rows)
      }
    )
  }

  private def step(values: Set[Value]): Set[Value] = values.map(v => v.copy(steps = v.steps + 1))

  /** For an unknown node it assumes that each output column depends on all that the node reads. */
  private final class Walk(stored: SparkPlan => Option[Stored]) {
    val found = mutable.ArrayBuffer.empty[Computation]
    private val subqueries = new IdentityHashMap[QueryPlan[_], Flow]
    private val logicalSubqueries = mutable.HashMap.empty[LogicalPlan, Flow]
    private var within = Option.empty[Stored]

    def visit(plan: QueryPlan[_]): Flow = plan match {
      case c: CarriesOriginal => visit(c.original)
      case e: ShuffleExchangeLike => below(e)
      case r: ReusedExchangeExec => visit(r.child).renamed(r.child.output, r.output)
      case r: ReusedSubqueryExec => visit(r.child)
      case s: QueryStageExec => visit(s.plan).renamed(s.plan.output, s.output)
      case a: AdaptiveSparkPlanExec =>
        visit(a.executedPlan).renamed(a.executedPlan.output, a.output)
      case s: InMemoryTableScanExec => cached(s.relation)
      case r: InMemoryRelation => cached(r)
      case s: FileSourceScanExec => files(s.relation, s.output)
      case LogicalRelation(r: HadoopFsRelation, output, _, _, _) => files(r, output)
      case s: LocalTableScanExec => leaf(s"${s.rows.size} rows", s.output, unnamed)
      case l: logical.LocalRelation => leaf(s"${l.data.size} rows", l.output, unnamed)
      case r: RangeExec => leaf(range(r.range), r.output, unnamed)
      case r: logical.Range => leaf(range(r), r.output, unnamed)
      case u: UnionExec => union(u)
      case u: logical.Union => union(u)
      case a: BaseAggregateExec => aggregated(a)
      case a: logical.Aggregate => aggregated(a)
      case w: WindowExec => windows(w, w.windowExpression)
      case w: logical.Window => windows(w, w.windowExpressions)
      case w: WindowGroupLimitExec => groupLimit(w, w.rankLikeFunction)
      case w: logical.WindowGroupLimit => groupLimit(w, w.rankLikeFunction)
      case _: CollectLimitExec | _: LocalLimitExec | _: GlobalLimitExec | _: CollectTailExec |
          _: TakeOrderedAndProjectExec | _: SampleExec | _: logical.GlobalLimit |
          _: logical.LocalLimit | _: logical.Tail | _: logical.Offset | _: logical.Sample =>
        picksRows(plan, Set.empty)
      case p: SparkPlan if Relations.runsUserCode(p) =>
        val read = children(p)
        val all = read.columns.valuesIterator.flatten.toSet ++ read.order
        compute(all, read)
        put(p, read, step(all))
      case _ => through(plan)
    }

    /** Everything below a stored boundary was computed by the run that stored it. */
    private def below(exchange: ShuffleExchangeLike): Flow = {
      val before = within
      within = before.orElse(stored(exchange))
      try visit(exchange.child)
      finally within = before
    }

    /** A value of no column is one of the rows: how many there are, and where. */
    private def orRows(of: Set[Value], read: Flow): Set[Value] = if (of.isEmpty) read.order else of

    private def compute(of: Set[Value], read: Flow): Unit =
      if (of.nonEmpty) {
        val inputs = of.map(_.input)
        found += Computation(of, within, read.inputs.filter(i => inputs(i._1)))
      }

    private def files(relation: HadoopFsRelation, output: Seq[Attribute]) = {
      // One column may have other names in two relations of the same files, by letters or by place.
      val places = relation.dataSchema.fieldNames.zipWithIndex.toMap
      def names(a: Attribute) =
        Set(a.name.toLowerCase(Locale.ROOT)) ++ places.get(a.name).map(i => s"$Place$i")
      leaf(inputOf(relation.location.rootPaths.map(_.toString)), output, names)
    }

    /** Spark gives columns of rows at hand other names when it computes them beforehand. */
    private def unnamed(a: Attribute): Set[String] = Set("")

    private def range(r: logical.Range) = s"range ${r.start} ${r.end} ${r.step}"

    private def leaf(
        input: String,
        output: Seq[Attribute],
        names: Attribute => Set[String]
    ): Flow = Flow(
      output.map(a => a.exprId -> names(a).map(Value(input, _, 0))).toMap,
      Set(Value(input, "", 0)),
      Map(input -> Set(within))
    )

    /** The rows of a cache: this application computed them when the cache was filled. */
    private def cached(r: InMemoryRelation): Flow =
      visit(r.cachedPlan).renamed(r.cachedPlan.output, r.output)

    private def children(plan: QueryPlan[_]): Flow = {
      val flows = plan.children.map { case child: QueryPlan[_] => visit(child) }
      val asked = plan.expressions.flatMap(subqueriesOf).map(subquery)
      val all = merged(flows)
      if (asked.isEmpty) all else all.copy(inputs = merged(all +: asked).inputs)
    }

    /**
     * The subqueries of an expression, without dynamic pruning: its plan is that of the join's other side,
     * with the same fingerprints. (A logical one counts: it may be planned and run as a separate query.)
     */
    private def subqueriesOf(e: Expression): Seq[PlanExpression[_]] = e match {
      case _: DynamicPruningExpression => Nil
      case in: InSubqueryExec if in.isDynamicPruning => Nil
      case p: PlanExpression[_] => p +: p.children.flatMap(subqueriesOf)
      case _ if !e.containsPattern(PLAN_EXPRESSION) => Nil
      case _ => e.children.flatMap(subqueriesOf)
    }

    /** Equal subqueries run once. */
    private def subquery(e: PlanExpression[_]): Flow = e.plan match {
      case plan: LogicalPlan =>
        logicalSubqueries.getOrElseUpdate(plan.canonicalized, outermost(plan))
      case plan: QueryPlan[_] =>
        if (!subqueries.containsKey(plan)) subqueries.put(plan, outermost(plan))
        subqueries.get(plan)
      case _ => nothing
    }

    /** Visits a subquery's plan, and keeps only its output columns. */
    private def outermost(plan: QueryPlan[_]): Flow = {
      val flow = visit(plan)
      flow.copy(columns =
        plan.output.map(a =>
          a.exprId -> flow.columns.getOrElse(a.exprId, Set.empty[Value])
        ).toMap
      )
    }

    private def values(e: Expression, columns: Map[ExprId, Set[Value]]): Set[Value] = {
      val out = mutable.Set.empty[Value]
      e.foreach {
        case a: Attribute => out ++= columns.getOrElse(a.exprId, Set.empty)
        case _ =>
      }
      subqueriesOf(e).foreach(s => out ++= subquery(s).columns.valuesIterator.flatten)
      out.toSet
    }

    /** A plan's output columns: from `made`, else from the columns it reads, else from `otherwise`. */
    private def put(
        plan: QueryPlan[_],
        read: Flow,
        otherwise: => Set[Value],
        made: Map[ExprId, Set[Value]] = Map.empty
    ): Flow = {
      lazy val rest = otherwise
      read.copy(columns = plan.output.map { a =>
        a.exprId -> made.getOrElse(a.exprId, read.columns.getOrElse(a.exprId, rest))
      }.toMap)
    }

    /** A node that treats each row alone. Random numbers depend on the order of rows. */
    private def through(plan: QueryPlan[_], made: Map[ExprId, Set[Value]] = Map.empty): Flow = {
      val read = children(plan)
      if (plan.expressions.forall(_.deterministic)) named(plan, read, Set.empty, made)
      else {
        compute(read.order, read)
        named(plan, read, step(read.order), made)
      }
    }

    private def named(
        plan: QueryPlan[_],
        read: Flow,
        more: Set[Value],
        made: Map[ExprId, Set[Value]]
    ): Flow = {
      val aliases = plan.expressions.collect { case a: Alias =>
        a.exprId -> (values(a.child, read.columns) ++ (if (a.deterministic) Nil else more))
      }.toMap
      put(plan, read, plan.expressions.flatMap(values(_, read.columns)).toSet, aliases ++ made)
    }

    private def union(plan: QueryPlan[_]): Flow = {
      val flows = plan.children.map { case child: QueryPlan[_] =>
        visit(child).renamed(child.output, plan.output)
      }
      merged(flows).copy(columns = plan.output.map { a =>
        a.exprId -> flows.flatMap(_.columns.getOrElse(a.exprId, Set.empty[Value])).toSet
      }.toMap)
    }

    private def picksRows(plan: QueryPlan[_], by: Set[Value]): Flow = {
      val read = through(plan)
      compute(by ++ read.order, read)
      read.copy(order = step(read.order))
    }

    private def groupLimit(plan: QueryPlan[_], rank: Expression): Flow =
      if (ExpressionText.isKnown(rank)) through(plan) else picksRows(plan, Set.empty)

    private def windows(plan: QueryPlan[_], list: Seq[NamedExpression]): Flow = {
      val read = children(plan)
      var order = read.order
      val made = list.map { e =>
        val of = values(e, read.columns)
        e.exprId -> (e.collectFirst { case w: WindowExpression => w } match {
          case Some(w) if isExact(w) => of
          case Some(WindowExpression(_: AggregateExpression, _)) =>
            val rows = orRows(of, read)
            compute(rows, read)
            step(rows)
          case _ => // depends on which row is the first, or the next one
            compute(of ++ read.order, read)
            order = step(read.order)
            step(of ++ read.order)
        })
      }
      put(plan, read, Set.empty, made.toMap).copy(order = order)
    }

    private def aggregated(a: logical.Aggregate): Flow = {
      val read = children(a)
      val made = a.aggregateExpressions.map { e =>
        val of = values(e, read.columns)
        val calls = e.collect { case c: AggregateExpression if !isExact(c.aggregateFunction) => c }
        calls.foreach(c => compute(orRows(values(c, read.columns), read), read))
        val isPicked = a.groupingExpressions.exists(k => !isBinaryStable(k) && k.semanticEquals(e))
        e.exprId -> (if (calls.isEmpty && !isPicked) of else step(step(orRows(of, read))))
      }
      put(a, read, Set.empty, made.toMap)
    }

    /** By phase: partial results depend on the order of rows, final ones on that of partial ones. */
    private def aggregated(a: BaseAggregateExec): Flow = {
      val read = children(a)
      var offset = a.initialInputBufferOffset
      def buffer(b: Attribute, i: Int) = read.columns.get(b.exprId)
        .orElse(a.child.output.lift(i).flatMap(o => read.columns.get(o.exprId)))
        .getOrElse(Set.empty)
      val keys = a.groupingExpressions.map { key =>
        val of = values(key, read.columns)
        if (isBinaryStable(key)) key.exprId -> of
        else {
          compute(of, read)
          key.exprId -> step(of)
        }
      }
      val made = a.aggregateExpressions.zip(a.aggregateAttributes).flatMap { case (call, result) =>
        val buffers = call.aggregateFunction.inputAggBufferAttributes
        val isFirst = call.mode == Partial || call.mode == Complete
        val of =
          if (isFirst) {
            values(call.aggregateFunction, read.columns) ++
              call.filter.fold(Set.empty[Value])(values(_, read.columns))
          } else {
            val first = offset
            offset += buffers.length
            buffers.zipWithIndex.flatMap { case (b, i) => buffer(b, first + i) }.toSet
          }
        val gives =
          if (isExact(call.aggregateFunction)) of
          else {
            val rows = orRows(of, read)
            compute(rows, read)
            if (call.mode == Complete) {
              compute(step(rows), read)
              step(step(rows))
            } else step(rows)
          }
        call.mode match {
          case Partial | PartialMerge => buffers.map(_.exprId -> gives)
          case Final | Complete => Seq(result.exprId -> gives)
        }
      }
      val inner = read.columns ++ keys ++ made
      put(
        a,
        read.copy(columns = inner),
        Set.empty,
        a.resultExpressions.map(e => e.exprId -> values(e, inner)).toMap
      )
    }

    private def isBinaryStable(key: Expression) = UnsafeRowUtils.isBinaryStable(key.dataType)
  }
}
