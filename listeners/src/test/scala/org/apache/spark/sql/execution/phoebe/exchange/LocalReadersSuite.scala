package org.apache.spark.sql.execution.phoebe.exchange

import org.scalatest.funsuite.AnyFunSuite

import org.apache.spark.sql.execution.{
  CoalescedMapperPartitionSpec,
  CoalescedPartitionSpec,
  PartialMapperPartitionSpec,
  PartialReducerPartitionSpec,
  ShufflePartitionSpec
}

/** Local shuffle readers over a restored boundary take reduce partitions instead of map outputs. */
class LocalReadersSuite extends AnyFunSuite {

  private def ranges(specs: Array[ShufflePartitionSpec], partitions: Int): Seq[Range] =
    RestoredExchangeExec.byPartition(specs, partitions).toSeq.map {
      case CoalescedPartitionSpec(start, end, _) => start until end
      case other => fail(s"$other")
    }

  private val few: Array[ShufflePartitionSpec] =
    Array.tabulate(6)(i => PartialMapperPartitionSpec(i / 3, i % 3, i % 3 + 1))
  private val many: Array[ShufflePartitionSpec] =
    Array(CoalescedMapperPartitionSpec(0, 4, 3), CoalescedMapperPartitionSpec(4, 9, 3))

  test("each partition is read once, by as many tasks") {
    for (specs <- Seq(few, many); partitions <- Seq(1, 2, 3, 7, 100)) {
      val found = ranges(specs, partitions)
      assert(found.size == specs.length)
      assert(found.flatten == (0 until partitions))
    }
  }

  test("whole partitions, and parts of skewed ones, stay what they are") {
    val specs: Array[ShufflePartitionSpec] = Array(
      CoalescedPartitionSpec(0, 2),
      PartialReducerPartitionSpec(2, 0, 3, 10),
      PartialReducerPartitionSpec(2, 3, 5, 10)
    )
    assert(RestoredExchangeExec.byPartition(specs, 3) sameElements specs)
    assert(RestoredExchangeExec.byPartition(Array.empty[ShufflePartitionSpec], 3).isEmpty)
  }
}
