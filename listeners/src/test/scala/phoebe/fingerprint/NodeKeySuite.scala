package phoebe.fingerprint

import org.scalatest.funsuite.AnyFunSuite

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.execution.{FilterExec, LocalTableScanExec, ProjectExec}
import org.apache.spark.sql.types.{DoubleType, LongType}
import phoebe.fingerprint.ExpressionText.Env

class NodeKeySuite extends AnyFunSuite {
  private val a = AttributeReference("a", LongType)()
  private val x = AttributeReference("x", DoubleType)()
  private val scan = LocalTableScanExec(Seq(a, x), Nil, None)
  private val below = Relation("h", Env(Map.empty), Set.empty)

  private def project(list: NamedExpression*) = new NodeKey(ProjectExec(list, scan), Seq(below))
  private def filter(condition: Expression) =
    new NodeKey(FilterExec(condition, scan), Seq(below))

  test("a node planned anew over the same relation is known again") {
    val alias = Alias(Add(a, a), "b")()
    val again = Alias(Add(a.withNullability(false), a), "b")(alias.exprId)
    val (first, second) = (project(a, alias), project(a, again))
    assert(first == second && first.hashCode == second.hashCode)
    assert(NodeKey.suits(ProjectExec(Seq(a, alias), scan)))
  }

  test("other arguments, columns, relations or operators are other statements") {
    val alias = Alias(Add(a, a), "b")()
    val first = project(a, alias)
    assert(first != project(alias, a))
    assert(first != project(a, Alias(Add(a, a), "b")()))
    assert(first != project(a, Alias(Multiply(a, a), "b")(alias.exprId)))
    assert(first != new NodeKey(ProjectExec(Seq(a, alias), scan), Seq(below.copy())))
    assert(filter(IsNotNull(a)) != filter(IsNotNull(x)))
    assert(filter(IsNotNull(a)) == filter(IsNotNull(a)))
  }

  test("equal literals are not taken for the same: their bits may differ") {
    val zero = Literal(0.0)
    assert(zero == Literal(-0.0))
    assert(filter(LessThan(x, zero)) == filter(LessThan(x, zero)))
    assert(filter(LessThan(x, zero)) != filter(LessThan(x, Literal(-0.0))))
  }
}
