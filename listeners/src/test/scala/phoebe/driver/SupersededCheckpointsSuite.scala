package phoebe.driver

import org.scalatest.funsuite.AnyFunSuite

import phoebe.store.CheckpointPlace

/** Which of an application's own checkpoints a later one stands for. */
class SupersededCheckpointsSuite extends AnyFunSuite {
  private def place(fingerprint: String, attempt: Int): CheckpointPlace =
    CheckpointPlace("file:/store", fingerprint, attempt.toString)

  test("the last of each fingerprint stays, earlier ones go when Spark has forgotten them") {
    val own = new SupersededCheckpoints
    val Seq(first, second, third) = (1 to 3).map(place("a", _))
    val other = place("b", 4)
    Seq(first, second, other).foreach(own.add)
    Seq(first, second, other).foreach(own.stands)
    Seq(second, other).foreach(own.forgotten)
    assert(own.superseded().isEmpty, "the first one is still read, the others are the last")
    own.forgotten(first)
    assert(own.superseded() == Set(first))
    assert(own.superseded() == Set(first), "it is named until it is gone")
    assert(own.all == Set(first, second, other), "it may still be there")
    own.gone(Set(first))
    assert(own.all == Set(second, other) && own.superseded().isEmpty)
    own.add(third)
    assert(own.superseded().isEmpty, "it may yet be given up")
    own.stands(third)
    assert(own.superseded() == Set(second))
  }

  test("what was given up while it was committed stands for nothing") {
    val own = new SupersededCheckpoints
    val Seq(first, second) = (1 to 2).map(place("a", _))
    Seq(first, second).foreach(own.add)
    Seq(first, second).foreach(own.stands)
    own.withdraw(second)
    Seq(first, second).foreach(own.forgotten)
    assert(own.superseded().isEmpty)
    assert(own.all == Set(first))
  }
}
