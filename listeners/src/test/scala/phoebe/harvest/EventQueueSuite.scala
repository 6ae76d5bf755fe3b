package phoebe.harvest

import org.scalatest.funsuite.AnyFunSuite

import org.apache.spark.scheduler.SparkListenerApplicationEnd

class EventQueueSuite extends AnyFunSuite {
  private val event = SparkListenerApplicationEnd(1L)

  private def drained(outbox: EventQueue): Seq[EventQueue.Item] =
    Iterator.continually(outbox.poll(0)).takeWhile(_ != null).toSeq

  test("events beyond the capacity are dropped and counted, messages are not") {
    val outbox = new EventQueue(3)
    (1 to 5).foreach(_ => outbox.event(event))
    outbox.message("m")
    assert(outbox.dropped == 2)
    val (events, messages) = drained(outbox).splitAt(3)
    assert(events == Seq.fill(3)(EventQueue.Event(event)))
    assert(messages.collect { case EventQueue.Message(line) => line() } == Seq("m"))
  }

  test("a request that a query waits for goes first") {
    val outbox = new EventQueue(3)
    outbox.event(event)
    assert(outbox.request("r"))
    val first = Option(outbox.poll(0)).collect { case request: EventQueue.Request =>
      request.line()
    }
    assert(first.contains("r"))
  }

  test("the end always finds room") {
    val outbox = new EventQueue(1)
    (1 to 5000).foreach(n => outbox.message(n.toString))
    outbox.end()
    assert(drained(outbox).last == EventQueue.End)
    assert(outbox.dropped > 0)
  }

  test("what is discarded is not counted, and nothing is taken afterwards but the end") {
    val outbox = new EventQueue(3)
    outbox.event(event)
    outbox.discard()
    outbox.event(event)
    outbox.message("m")
    outbox.end()
    assert(drained(outbox) == Seq(EventQueue.End))
    assert(outbox.dropped == 0)
  }
}
