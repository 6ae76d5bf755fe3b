/*
 * Canonical text of expressions. Attributes appear under the name of their origin, never under an
 * expression id or a position. Everything else appears as its class and its constructor's arguments. The
 * text is prefix-free (strings have their length), so different expressions have different texts.
 */
package phoebe.fingerprint

import java.time.LocalDate
import java.util.Base64

import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.expressions.aggregate.{
  AggregateExpression,
  AggregateFunction,
  Complete,
  Max,
  Min
}
import org.apache.spark.sql.catalyst.expressions.objects.{Invoke, StaticInvoke}
import org.apache.spark.sql.catalyst.expressions.variant.VariantGet
import org.apache.spark.sql.catalyst.util.{DateTimeUtils, UnsafeRowUtils}
import org.apache.spark.sql.execution.{BaseSubqueryExec, InSubqueryExec, ScalarSubquery}
import org.apache.spark.sql.internal.SQLConf
import org.apache.spark.sql.types._
import org.apache.spark.unsafe.types.{CalendarInterval, UTF8String}
import org.apache.spark.sql.execution.phoebe.compat.{SparkInternals, SparkVersion}

/**
 * @param subquery
 *   canonical name of a subquery's plan together with its output columns
 * @param pruning
 *   canonical text of a dynamic pruning predicate
 * @param today
 *   the date in a time zone
 */
private[fingerprint] final class ExpressionText(
    subquery: BaseSubqueryExec => String,
    pruning: InSubqueryExec => String,
    today: String => String = ExpressionText.today
) {
  import ExpressionText._

  /** The canonical name of a named expression: of its column, or of its expression. */
  def name(e: Expression, env: Env): String = unalias(e) match {
    case a: AttributeReference => env(a)
    case other => Digest.of("expression", text(other, env))
  }

  def text(e: Expression, env: Env): String = {
    if (!e.deterministic) {
      val culprit = e.find(x => !x.deterministic && x.children.forall(_.deterministic))
      Refused.nondeterministic(culprit.getOrElse(e).prettyName)
    }
    val out = new StringBuilder
    expression(e, new Scope(env, Map.empty), out)
    out.toString
  }

  /** Conjuncts as a sorted set, without pruning that AQE has switched off. */
  def conjuncts(predicates: Iterable[Expression], env: Env): Seq[String] =
    predicates.iterator.flatMap(split).filterNot(isTrue).map(text(_, env)).toSeq.distinct.sorted

  /** An aggregate call without its mode and id: `sum(x) filter (where y)`, as text. */
  def aggregate(a: AggregateExpression, env: Env): String = {
    val filter = a.filter.map(text(_, env)).getOrElse("")
    Digest.of("call", text(a.aggregateFunction, env), a.isDistinct.toString, filter)
  }

  private def expression(e: Expression, scope: Scope, out: StringBuilder): Unit = {
    val name = e.getClass.getName
    if (orderSensitive(name) || !(handled(name) || AllowList.expressions(name))) refuse(e)
    if (picksAmongEqual(e)) Refused.orderSensitive(e.prettyName)
    clock(e).foreach(zone => out.append("today(").append(today(zone)).append(')'))
    known(e, scope, out)
  }

  private def refuse(e: Expression): Nothing = e match {
    case _ if orderSensitive(e.getClass.getName) => Refused.orderSensitive(e.prettyName)
    case _: UserDefinedExpression => Refused.udf(e.prettyName)
    case _ => Refused.expression(e.getClass.getName)
  }

  private def known(e: Expression, scope: Scope, out: StringBuilder): Unit = e match {
    case a: Alias => expression(a.child, scope, out)
    case a: AttributeReference => out.append('#').append(scope.env(a))
    case l: Literal => literal(l, out)
    case v: NamedLambdaVariable =>
      val depth = scope.variables.getOrElse(v.exprId, Refused.attribute(v.name, "a lambda"))
      out.append("lambda(").append(depth).append(',').append(typeText(v.dataType)).append(')')
    case LambdaFunction(function, arguments, hidden) =>
      val inner = scope.bind(arguments.collect { case v: NamedLambdaVariable => v.exprId })
      out.append("function(").append(arguments.size).append(hidden).append(',')
      expression(function, inner, out)
      out.append(')')
    case s: ScalarSubquery => out.append("scalar(").append(subquery(s.plan)).append(')')
    case DynamicPruningExpression(in: InSubqueryExec) => out.append(pruning(in))
    case in: InSubqueryExec if in.isDynamicPruning => out.append(pruning(in))
    case in: InSubqueryExec =>
      out.append("in(")
      expression(in.child, scope, out)
      out.append(',').append(subquery(in.plan)).append(')')
    case s: SortOrder =>
      // The orders that happen to be equal (`sameOrderExpressions`) differ between re-plans.
      out.append("order(")
      expression(s.child, scope, out)
      out.append(',').append(s.direction.sql).append(',').append(s.nullOrdering.sql).append(')')
    case InSet(child, values) =>
      out.append("inset(")
      expression(child, scope, out)
      values.toSeq.map(v => literalText(v, child.dataType)).sorted.foreach(
        out.append(',').append(_)
      )
      out.append(')')
    case _: And | _: Or => commutative(e, flatten(e, e), scope, out)
    case _: EqualTo | _: EqualNullSafe | _: BitwiseAnd | _: BitwiseOr | _: BitwiseXor =>
      commutative(e, e.children, scope, out)
    // Of operands that compare as equal (0.0 and -0.0) the first is returned.
    case _: Greatest | _: Least if !hasFraction(e.dataType) =>
      commutative(e, e.children, scope, out)
    // Where sums wrap around, the order of a whole chain does not matter. Elsewhere (sums round, or a
    // step overflows) only the order of the two operands does not.
    case _: Add | _: Multiply => commutative(e, chain(e), scope, out)
    case GreaterThan(left, right) => expression(LessThan(right, left), scope, out)
    case GreaterThanOrEqual(left, right) => expression(LessThanOrEqual(right, left), scope, out)
    case In(value, list) =>
      out.append("in-list(")
      expression(value, scope, out)
      list.map(rendered(_, scope)).distinct.sorted.foreach(out.append(',').append(_))
      out.append(')')
    case a: AggregateExpression =>
      // Aggregates appear inside expressions only as window functions.
      if (a.mode != Complete) Refused.expression(s"aggregate in mode ${a.mode}")
      out.append("aggregate(").append(a.isDistinct).append(',')
      expression(a.aggregateFunction, scope, out)
      a.filter.foreach { f => out.append(','); expression(f, scope, out) }
      out.append(')')
    case s: StaticInvoke if !isSparkSql(s.staticObject.getName) =>
      Refused.udf(s.staticObject.getName)
    // Chooses a random initialisation vector, but claims to be deterministic.
    case s: StaticInvoke if s.functionName == "aesEncrypt" =>
      Refused.nondeterministic("aes_encrypt")
    case w: WindowExpression if countsRows(w) =>
      Refused.orderSensitive(s"${w.windowFunction.prettyName} over ROWS")
    case x: XmlToStructs if x.options.keys.exists(namesFile) =>
      Refused.source("unknown_source", "from_xml", "an option names a file that is not looked at")
    // The type of a variant depends on the rows before it.
    case c: CsvToStructs if SparkInternals.exists(c.schema)(_.isInstanceOf[VariantType]) =>
      Refused.orderSensitive("from_csv")
    case i: Invoke if !isSparkEvaluator(i) => Refused.udf(i.prettyName)
    case _ => elements(e.getClass.getName, e, scope, out)
  }

  /**
   * Spark's own canonical form orders commutative operands, and Spark reuses exchanges by it. A plan may
   * then have one form where it had the other, so their texts are equal here too. (Not those of chains that
   * Spark orders although a step may overflow or round: checkpoints above them are then not found.)
   *
   * No value depends on the order that is sorted here. Sums and products of two numbers are the same bit
   * for bit, except for the payload of a NaN, which Spark never shows. So are reversed comparisons, bit
   * operations, and the choice among values that are equal only if they are identical. AND, OR, IN,
   * conjuncts and join keys may evaluate another operand first and fail there. But a stored run did not
   * fail, and Spark promises no order of evaluation either.
   */
  private def commutative(
      e: Expression,
      operands: Seq[Expression],
      scope: Scope,
      out: StringBuilder
  ): Unit = {
    val texts = operands.map(rendered(_, scope)).sorted
    out.append(e.getClass.getName).append("(")
    (if (e.isInstanceOf[Predicate]) texts.distinct else texts).foreach(out.append(',').append(_))
    // Other arguments of the operator (its evaluation mode) count unchanged.
    extras(e).foreach { x =>
      out.append(';')
      value(e.getClass.getName, x, scope, out)
    }
    out.append(')')
    ()
  }

  private def chain(e: Expression): Seq[Expression] = {
    val wraps = SparkVersion.evalMode(e).contains(EvalMode.LEGACY)
    if (e.dataType.isInstanceOf[SparkInternals.IntegralType] && wraps) flatten(e, e) else e.children
  }

  private def rendered(e: Expression, scope: Scope): String = {
    val out = new StringBuilder
    expression(e, scope, out)
    out.toString
  }

  private def elements(name: String, p: Product, scope: Scope, out: StringBuilder): Unit = {
    out.append(name).append('(')
    p.productIterator.foreach { x => value(name, x, scope, out); out.append(',') }
    out.append(')')
  }

  private def value(owner: String, x: Any, scope: Scope, out: StringBuilder): Unit = x match {
    case null => out.append("null")
    case e: Expression => expression(e, scope, out)
    case s: String => string(s, out)
    // By its bytes, because all invalid UTF-8 has the same text.
    case s: UTF8String => string(Base64.getEncoder.encodeToString(s.getBytes), out)
    case t: DataType => out.append(typeText(t)).append(nestedText(t))
    case b: Boolean => out.append(b)
    case c: Char => out.append('\'').append(c.toInt)
    case n: java.lang.Number => out.append(n.getClass.getSimpleName).append(n)
    case d: Decimal => out.append("Decimal").append(d)
    case i: CalendarInterval => out.append(s"interval ${i.months} ${i.days} ${i.microseconds}")
    case v: scala.Enumeration#Value => string(v.toString, out)
    case v: Enum[_] => string(v.name, out)
    case z: java.time.ZoneId => string(z.getId, out)
    case b: Array[Byte] => string(Base64.getEncoder.encodeToString(b), out)
    case None => out.append("none")
    case Some(v) => out.append("some("); value(owner, v, scope, out); out.append(')')
    case s: scala.collection.Seq[_] =>
      out.append('[').append(s.size).append(':')
      s.foreach { v => value(owner, v, scope, out); out.append(',') }
      out.append(']')
    case m: scala.collection.Map[_, _] =>
      val entries = m.toSeq.map { case (k, v) =>
        val entry = new StringBuilder
        value(owner, k, scope, entry)
        entry.append("->")
        value(owner, v, scope, entry)
        entry.toString
      }
      out.append('{').append(entries.size).append(':')
      entries.sorted.foreach(out.append(_).append(','))
      out.append('}')
    case c: Class[_] if c.isPrimitive || isSparkSql(c.getName) => string(c.getName, out)
    case p: Product
        if isSparkSql(p.getClass.getName) || p.getClass.getName.startsWith("scala.Tuple") =>
      elements(p.getClass.getName, p, scope, out)
    case other => Refused.value(owner, other.getClass.getName)
  }

  private def isSparkEvaluator(i: Invoke): Boolean = i.targetObject match {
    case Literal(p: Product, _: ObjectType) => isSparkSql(p.getClass.getName)
    case _ => false
  }

  private def literal(l: Literal, out: StringBuilder): Unit = l.dataType match {
    case _: ObjectType =>
      l.value match {
        case p: Product if isSparkSql(p.getClass.getName) =>
          out.append("object(")
          elements(p.getClass.getName, p, Scope.empty, out)
          out.append(')')
        case other =>
          Refused.value("Literal", if (other == null) "null" else other.getClass.getName)
      }
    case t => out.append(literalText(l.value, t))
  }
}

private[fingerprint] object ExpressionText {

  /** From a plan's columns to their canonical names. */
  final case class Env(names: Map[ExprId, String]) {
    def apply(a: Attribute): String = {
      val name = names.getOrElse(a.exprId, Refused.attribute(a.name, "a plan"))
      if (isUnstable(name)) Refused.metadataColumn(name.drop(unstable.length))
      name
    }
    def get(a: Attribute): Option[String] = names.get(a.exprId)
  }

  private val unstable = "!"

  /** The name of a column that must not be read: refused where it is used, not where it exists. */
  def unstableName(column: String): String = unstable + column
  def isUnstable(name: String): Boolean = name.startsWith(unstable)

  private final case class Scope(env: Env, variables: Map[ExprId, Int]) {

    /** Variables are numbered by nesting, so that their ids do not count. */
    def bind(ids: Seq[ExprId]): Scope =
      copy(variables = variables ++ ids.zipWithIndex.map { case (id, i) =>
        id -> (variables.size + i)
      })
  }
  private object Scope {
    val empty: Scope = Scope(Env(Map.empty), Map.empty)
  }

  private val expressions = "org.apache.spark.sql.catalyst.expressions."

  /** Expressions handled in code, and not only by their arguments; exact classes, as in the lists. */
  val handled: Set[String] = Seq(
    classOf[Alias],
    classOf[AttributeReference],
    classOf[Literal],
    classOf[NamedLambdaVariable],
    classOf[LambdaFunction],
    classOf[ScalarSubquery],
    classOf[DynamicPruningExpression],
    classOf[InSubqueryExec],
    classOf[SortOrder],
    classOf[InSet],
    classOf[AggregateExpression]
  ).map(_.getName).toSet

  /**
   * Functions whose results depend on the order in which rows arrive. If the order of a window or an
   * aggregate has ties, two runs differ. A query that restores such a result, and computes another branch
   * over the same rows, would mix two runs.
   */
  private val orderSensitive: Set[String] = (Seq(
    "First",
    "Last",
    "CollectList",
    "CollectSet",
    "CollectTopK",
    "ListAgg",
    "MaxBy",
    "MinBy",
    "MaxMinByK",
    "Mode",
    "PandasMode",
    "HistogramNumeric",
    "ApproximatePercentile",
    "HllSketchAgg",
    "HllUnionAgg"
  ).map("aggregate." + _) ++ Seq("RowNumber", "NTile", "Lag", "Lead", "NthValue"))
    .map(expressions + _).toSet

  /** Whether an expression's value depends only on its arguments, for any order of rows. */
  def isKnown(e: Expression): Boolean = {
    val name = e.getClass.getName
    !orderSensitive(name) && AllowList.expressions(name)
  }

  /** Whether a frame counts rows, so that it may cut between ties. (Ranks depend on values only.) */
  def countsRows(w: WindowExpression): Boolean = w.windowSpec.frameSpecification match {
    case SpecifiedWindowFrame(RowFrame, UnboundedPreceding, UnboundedFollowing) => false
    case SpecifiedWindowFrame(RowFrame, _, _) => !w.windowFunction.isInstanceOf[RankLike]
    case _ => false
  }

  /** Whether it chooses among different strings that a collation takes for equal, by their order. */
  private def picksAmongEqual(e: Expression): Boolean = e match {
    case _: Max | _: Min | _: Greatest | _: Least => !UnsafeRowUtils.isBinaryStable(e.dataType)
    case _ => false
  }

  /** The zone whose date `e` adds to a string that is only a time of day, if it may read such values. */
  def clock(e: Expression): Option[String] = e match {
    case c: Cast if readsTime(c.child.dataType, c.dataType) => Some(zoneOf(c))
    case s: JsonToStructs if hasTime(s.dataType) => Some(zoneOf(s, s.options))
    case s: CsvToStructs if hasTime(s.dataType) => Some(zoneOf(s, s.options))
    case s: XmlToStructs if hasTime(s.dataType) => Some(zoneOf(s, s.options))
    case v: VariantGet if hasTime(v.targetType) => Some(zoneOf(v))
    case _ => None
  }

  private def zoneOf(
      e: TimeZoneAwareExpression,
      options: Map[String, String] = Map.empty
  ): String =
    option(options, "timeZone").orElse(e.timeZoneId).getOrElse(SQLConf.get.sessionLocalTimeZone)

  /** A reader's option, whatever the case of its name. */
  def option(options: Map[String, String], key: String): Option[String] =
    options.collectFirst { case (k, v) if k.equalsIgnoreCase(key) => v }

  private def readsTime(from: DataType, to: DataType): Boolean = (from, to) match {
    case (_: StringType, TimestampType) => true
    case (f: ArrayType, t: ArrayType) => readsTime(f.elementType, t.elementType)
    case (f: MapType, t: MapType) =>
      readsTime(f.keyType, t.keyType) || readsTime(f.valueType, t.valueType)
    case (f: StructType, t: StructType) =>
      f.fields.zip(t.fields).exists { case (a, b) => readsTime(a.dataType, b.dataType) }
    case (_: VariantType, t) => hasTime(t)
    case _ => false
  }

  def hasTime(t: DataType): Boolean = SparkInternals.exists(t)(_ == TimestampType)

  /** Whether values may compare as equal and differ: 0.0 and -0.0. */
  def hasFraction(t: DataType): Boolean = SparkInternals.exists(t) {
    case FloatType | DoubleType => true
    case _ => false
  }

  def today(zone: String): String = LocalDate.now(DateTimeUtils.getZoneId(zone)).toString

  /** Whether an option names a file that is no input of the query. */
  def namesFile(option: String): Boolean =
    option.equalsIgnoreCase("rowValidationXSDPath") || option.equalsIgnoreCase("avroSchemaUrl")

  def isSparkSql(className: String): Boolean =
    className.startsWith("org.apache.spark.sql.catalyst.") ||
      className.startsWith("org.apache.spark.sql.types.") ||
      className.startsWith("org.apache.spark.unsafe.types.") ||
      className.startsWith("org.apache.spark.sql.internal.types.")

  def unalias(e: Expression): Expression = e match {
    case a: Alias if a.getClass == classOf[Alias] => unalias(a.child)
    case other => other
  }

  def split(e: Expression): Seq[Expression] = e match {
    case And(left, right) if e.getClass == classOf[And] => split(left) ++ split(right)
    case other => Seq(other)
  }

  /** The operands of a chain of one operator in one evaluation mode. */
  private def flatten(e: Expression, like: Expression): Seq[Expression] =
    if (e.getClass == like.getClass && extras(e) == extras(like))
      e.children.flatMap(flatten(_, like))
    else Seq(e)

  private def extras(e: Expression): Seq[Any] = e.productIterator.filter {
    case _: Expression | _: scala.collection.Seq[_] => false
    case _ => true
  }.toSeq

  def isTrue(e: Expression): Boolean = e match {
    case Literal(true, BooleanType) if e.getClass == classOf[Literal] => true
    case DynamicPruningExpression(child) => isTrue(child)
    case _ => false
  }

  private def string(s: String, out: StringBuilder): Unit = {
    out.append('"').append(s.length).append(':').append(s)
    ()
  }

  /** A type without nullability, which a re-plan may narrow and which changes no stored byte. */
  def typeText(t: DataType): String = t match {
    case s: StructType =>
      s.fields.iterator
        .map(f => s"${f.name.length}:${f.name} ${typeText(f.dataType)}")
        .mkString(s"struct${s.length}<", ",", ">")
    case a: ArrayType => s"array<${typeText(a.elementType)}>"
    case m: MapType => s"map<${typeText(m.keyType)},${typeText(m.valueType)}>"
    case u: UserDefinedType[_] => Refused.value("column", u.getClass.getName)
    case other => other.catalogString
  }

  /** A field with its metadata: variant paths, default values, column mapping. */
  def fieldText(f: StructField): String = {
    val described = if (f.metadata == Metadata.empty) "" else f.metadata.json
    s"${f.name.length}:${f.name} ${typeText(f.dataType)} ${nestedText(f.dataType)}$described"
  }

  def schemaText(s: StructType): String = s.fields.map(fieldText).mkString("schema<", ",", ">")

  private def nestedText(t: DataType): String = t match {
    case s: StructType => schemaText(s)
    case a: ArrayType => nestedText(a.elementType)
    case m: MapType => nestedText(m.keyType) + nestedText(m.valueType)
    case _ => ""
  }

  /** A value and its type; complex values through Spark's own binary row format. */
  def literalText(value: Any, t: DataType): String = {
    val text = value match {
      case null => "null"
      case _: Boolean | _: Byte | _: Short | _: Int | _: Long => value.toString
      case f: Float => java.lang.Float.floatToRawIntBits(f).toString
      case d: Double => java.lang.Double.doubleToRawLongBits(d).toString
      case s: UTF8String => s"${s.numBytes}:${Base64.getEncoder.encodeToString(s.getBytes)}"
      case d: Decimal => d.toString
      case _ =>
        val row = UnsafeProjection.create(Array(t)).apply(InternalRow(value))
        Base64.getEncoder.encodeToString(row.getBytes)
    }
    s"literal(${typeText(t)},$text)"
  }
}
