package phoebe.harvest

import org.scalatest.funsuite.AnyFunSuite

import org.apache.spark.scheduler.SparkListenerApplicationEnd

class EventQueueSuite extends AnyFunSuite {
  private val event = SparkListenerApplicationEnd(1L)

  private def drained(queue: EventQueue): Seq[EventQueue.Item] =
    Iterator.continually(queue.poll(0)).takeWhile(_ != null).toSeq

  test("events beyond the capacity are dropped and counted, messages are not") {
    val queue = new EventQueue(3)
    (1 to 5).foreach(_ => queue.event(event))
    queue.message("m")
    assert(queue.dropped == 2)
    val (events, messages) = drained(queue).splitAt(3)
    assert(events == Seq.fill(3)(EventQueue.Event(event)))
    assert(messages.collect { case EventQueue.Message(line) => line() } == Seq("m"))
  }

  test("a request that a query waits for goes first") {
    val queue = new EventQueue(3)
    queue.event(event)
    assert(queue.request("r"))
    val first = Option(queue.poll(0)).collect { case request: EventQueue.Request =>
      request.line()
    }
    assert(first.contains("r"))
  }

  test("the end always finds room") {
    val queue = new EventQueue(1)
    (1 to 5000).foreach(n => queue.message(n.toString))
    queue.end()
    assert(drained(queue).last == EventQueue.End)
    assert(queue.dropped > 0)
  }

  test("what is discarded is not counted, and nothing is taken afterwards but the end") {
    val queue = new EventQueue(3)
    queue.event(event)
    queue.discard()
    queue.event(event)
    queue.message("m")
    queue.end()
    assert(drained(queue) == Seq(EventQueue.End))
    assert(queue.dropped == 0)
  }
}
