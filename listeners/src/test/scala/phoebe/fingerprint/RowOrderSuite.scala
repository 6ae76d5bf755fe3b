package phoebe.fingerprint

import org.scalatest.funsuite.AnyFunSuite

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.expressions.aggregate._
import org.apache.spark.sql.types._
import phoebe.fingerprint.RowOrder._

class RowOrderSuite extends AnyFunSuite {
  private def column(t: DataType) = AttributeReference("c", t)()
  private def sum(t: DataType, mode: EvalMode.Value) = Sum(column(t), NumericEvalContext(mode))

  test("which aggregates follow from the order of rows") {
    import EvalMode.{ANSI, LEGACY, TRY}
    val wide = DecimalType(32, 4)
    val collated = StringType("UTF8_LCASE")
    val exact = Seq(
      Count(Seq(column(DoubleType))),
      HyperLogLogPlusPlus(column(DoubleType)),
      sum(LongType, LEGACY),
      sum(LongType, ANSI),
      sum(wide, ANSI),
      sum(DecimalType(28, 4), TRY),
      Average(column(ShortType), LEGACY),
      Average(column(wide), ANSI),
      Max(column(StringType)),
      Min(column(wide))
    )
    val not = Seq(
      sum(DoubleType, ANSI),
      sum(FloatType, LEGACY),
      sum(LongType, TRY),
      sum(wide, LEGACY),
      sum(wide, TRY),
      sum(DayTimeIntervalType(), TRY),
      Average(column(LongType), ANSI),
      Average(column(wide), TRY),
      StddevSamp(column(DoubleType)),
      Corr(column(DoubleType), column(DoubleType)),
      Product(column(DoubleType)),
      Max(column(DoubleType)),
      Max(column(ArrayType(FloatType))),
      Min(column(collated)),
      First(column(LongType), ignoreNulls = false),
      CollectList(column(LongType))
    )
    assert(exact.filterNot(isExact(_)).isEmpty)
    assert(not.filter(isExact(_)).isEmpty)
  }

  private val v = Value("t", "v", 0)
  private val one = Stored("f1", "run 1")
  private val now = Computation(Set(v), None, Map("t" -> Set(None)))
  private val above = Computation(Set(v), None, Map("t" -> Set(Some(one))))
  private def stored(boundary: Stored) =
    Computation(Set(v), Some(boundary), Map("t" -> Set(Some(boundary))))
  private def refused(all: Computation*) = contested(all, Set.empty).keySet

  test("one value comes from one run for all its consumers") {
    assert(refused(stored(one)).isEmpty)
    assert(refused(above).isEmpty)
    assert(refused(stored(one), stored(Stored("f2", "run 1"))).isEmpty)
    assert(refused(stored(one), stored(Stored("f2", "run 2"))) == Set("f1", "f2"))
    assert(refused(stored(one), now) == Set("f1"))
    assert(refused(above, now) == Set("f1"))
    assert(refused(stored(Stored("f2", "run 1")), above) == Set("f2"))
    assert(refused(stored(one), now.copy(of = Set(v.copy(column = "w")))).isEmpty)
    assert(refused(stored(one), now.copy(of = Set(v.copy(steps = 1)))).isEmpty)
    assert(contested(Seq(stored(one)), Set(v)).keySet == Set("f1"))
    assert(contested(Seq(now), Set(v)).isEmpty)
  }

  test("a stored boundary is computed after all where no other one shows its values") {
    val two = Stored("f2", "run 1")
    assert(linked(Seq(stored(one), stored(two))) == Set("f1", "f2"))
    assert(linked(Seq(stored(one), stored(one))).isEmpty)
    assert(linked(Seq(above, stored(one))).isEmpty)
    assert(linked(Seq(stored(one), stored(two).copy(of = Set(v.copy(column = "w"))))).isEmpty)
  }

  test("inputs that may have files in common are one") {
    def of(input: String) = Computation(Set(v.copy(input = input)), None, Map(input -> Set(None)))
    def restored(input: String) =
      of(input).copy(within = Some(one), rows = Map(input -> Set(Some(one))))
    assert(refused(restored("file:/t"), of("file:/t/p=1")) == Set("f1"))
    assert(refused(restored("file:/t/p=1"), of("file:/a\nfile:/t")) == Set("f1"))
    assert(refused(restored("file:/t/p=1"), of("file:/t/p=2")).isEmpty)
    assert(refused(restored("file:/t"), of("file:/t2")).isEmpty)
  }
}
