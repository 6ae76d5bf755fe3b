package phoebe.fingerprint

import org.scalatest.funsuite.AnyFunSuite

import org.apache.spark.rdd.RDD
import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.expressions.codegen.CodegenFallback
import org.apache.spark.sql.catalyst.plans.physical.HashPartitioning
import org.apache.spark.sql.execution.{phoebe => _, _}
import org.apache.spark.sql.execution.exchange.ShuffleExchangeExec
import org.apache.spark.sql.types.{BooleanType, DataType, LongType}

/** Operators and expressions that nobody has looked at, thrown at the fingerprint. */
class UnknownSuite extends AnyFunSuite {
  import UnknownSuite._

  private val a = AttributeReference("a", LongType)()
  private val rows = LocalTableScanExec(Seq(a), Nil, None)

  private def code(plan: SparkPlan): Option[String] =
    try {
      val relations = new Relations(new ReplanMatcher(null))
      relations(ShuffleExchangeExec(HashPartitioning(plan.output, 2), plan))
      None
    } catch { case r: Refused => Some(r.refusal.code) }

  private def filter(condition: Expression) = code(FilterExec(condition, rows))

  test("what is known has a fingerprint") {
    assert(code(rows).isEmpty)
    assert(filter(GreaterThan(a, Literal(1L))).isEmpty)
    assert(code(ProjectExec(Seq(Alias(Add(a, a), "b")()), rows)).isEmpty)
  }

  test("an operator of others is refused, wherever it stands") {
    assert(code(StrangeLeafExec(Seq(a))).contains("unknown_operator"))
    assert(code(StrangeExec(rows)).contains("unknown_operator"))
    assert(code(FilterExec(IsNotNull(a), StrangeExec(rows))).contains("unknown_operator"))
    assert(code(UnionExec(Seq(rows, StrangeExec(rows)))).contains("unknown_operator"))
  }

  test("a subclass of a known operator is not known") {
    assert(code(new StrangeFilterExec(IsNotNull(a), rows)).contains("unknown_operator"))
  }

  test("an expression of others is refused, wherever it stands") {
    val strange = Strange(a)
    assert(filter(strange).contains("unknown_expression"))
    assert(filter(And(IsNotNull(a), strange)).contains("unknown_expression"))
    assert(filter(Or(strange, Not(strange))).contains("unknown_expression"))
    assert(filter(EqualTo(strange, Literal(true))).contains("unknown_expression"))
    assert(filter(In(strange, Seq(Literal(true)))).contains("unknown_expression"))
    assert(code(ProjectExec(Seq(Alias(strange, "s")()), rows)).contains("unknown_expression"))
    assert(code(SortExec(Seq(SortOrder(strange, Ascending)), false, rows))
      .contains("unknown_expression"))
  }

  test("a subclass of a known expression is not known, even of one that is handled in code") {
    assert(filter(new StrangeAnd(IsNotNull(a), IsNotNull(a))).contains("unknown_expression"))
    assert(filter(new StrangeGreater(a, Literal(1L))).contains("unknown_expression"))
    assert(filter(EqualTo(a, new StrangeAdd(a, a))).contains("unknown_expression"))
  }

  test("a value that an expression holds is not guessed at") {
    assert(filter(EqualTo(a, Literal.create(null, LongType))).isEmpty)
    val odd = ScalarHolder(a, new Object)
    assert(filter(odd).contains("unknown_expression"))
  }
}

object UnknownSuite {
  final case class StrangeLeafExec(output: Seq[Attribute]) extends LeafExecNode {
    override protected def doExecute(): RDD[InternalRow] = throw new UnsupportedOperationException
  }

  final case class StrangeExec(child: SparkPlan) extends UnaryExecNode {
    override def output: Seq[Attribute] = child.output
    override protected def doExecute(): RDD[InternalRow] = child.execute()
    override protected def withNewChildInternal(newChild: SparkPlan): SparkPlan =
      copy(child = newChild)
  }

  final class StrangeFilterExec(condition: Expression, child: SparkPlan)
      extends FilterExec(condition, child)

  final case class Strange(child: Expression)
      extends UnaryExpression with Predicate with CodegenFallback {
    override def eval(input: InternalRow): Any = true
    override protected def withNewChildInternal(newChild: Expression): Expression =
      copy(child = newChild)
  }

  final case class ScalarHolder(child: Expression, held: AnyRef)
      extends UnaryExpression with CodegenFallback {
    override def dataType: DataType = BooleanType
    override def eval(input: InternalRow): Any = true
    override protected def withNewChildInternal(newChild: Expression): Expression =
      copy(child = newChild)
  }

  final class StrangeAnd(left: Expression, right: Expression) extends And(left, right)
  final class StrangeGreater(left: Expression, right: Expression) extends GreaterThan(left, right)
  final class StrangeAdd(left: Expression, right: Expression)
      extends Add(left, right, NumericEvalContext(EvalMode.LEGACY))
}
