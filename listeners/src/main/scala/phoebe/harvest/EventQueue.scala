package phoebe.harvest

import java.util.concurrent.ConcurrentLinkedQueue
import java.util.concurrent.atomic.{AtomicInteger, AtomicLong}
import java.util.concurrent.locks.LockSupport

import org.apache.spark.scheduler.SparkListenerEvent

/**
 * What waits for the companion: bounded, never blocking the thread that puts something in.
 *
 * Events beyond `capacity` are dropped and counted; the plugin's own messages (few, and each tells
 * of a decision) have a reserve on top; requests that a query waits for go first, in their order.
 *
 * The listener bus puts events in: no lock that the reader may hold, and the reader is not woken for
 * each, which would cost the bus more than all else that it does here. It looks by itself, many times
 * a second; only a request and the end wake it. One reader.
 */
final private[phoebe] class EventQueue(capacity: Int) {
  import EventQueue._

  private val queue = new ConcurrentLinkedQueue[Item]()
  private val requests = new ConcurrentLinkedQueue[Request]()

  /** How many items there are: both queues' `size` would count them one by one. */
  private val waiting = new AtomicInteger()
  private val droppedCount = new AtomicLong()
  @volatile private var closed = false
  @volatile private var reader: Thread = _

  def dropped: Long = droppedCount.get()

  /** An event that was taken could not be handed on. */
  def lost(): Unit = droppedCount.incrementAndGet()

  def isEmpty: Boolean = waiting.get() <= 0

  def event(event: SparkListenerEvent): Unit =
    if (!closed) {
      if (waiting.get() >= capacity) lost()
      else put(Event(event))
    }

  def message(line: => String): Unit =
    if (!closed) {
      if (isFull) lost()
      else put(Message(() => line))
    }

  /** False: no room, the request was not taken. */
  def request(line: => String): Boolean = !isFull && {
    waiting.incrementAndGet()
    requests.add(new Request(() => line))
    LockSupport.unpark(reader)
    true
  }

  /** The last item; there is always room for it. */
  def end(): Unit = {
    put(End)
    LockSupport.unpark(reader)
  }

  /** The next item, or null after `timeoutMs`. */
  def poll(timeoutMs: Long): Item = {
    reader = Thread.currentThread
    val deadline = System.nanoTime() + timeoutMs * 1000000L
    var item = next()
    while (item == null && System.nanoTime() < deadline) {
      LockSupport.parkNanos(this, math.min(LookNs, deadline - System.nanoTime()))
      item = next()
    }
    item
  }

  /** Nobody reads any more: what waits is forgotten, and what comes is not taken. */
  def discard(): Unit = {
    closed = true
    while (next() != null) {}
  }

  private def isFull: Boolean = waiting.get() >= capacity + Reserve

  private def put(item: Item): Unit = {
    waiting.incrementAndGet()
    queue.add(item)
  }

  private def next(): Item = {
    val request = requests.poll()
    val item = if (request != null) request else queue.poll()
    if (item != null) waiting.decrementAndGet()
    item
  }
}

private[phoebe] object EventQueue {
  private val Reserve = 1000
  private val LookNs = 20000000L

  sealed trait Item
  final case class Event(event: SparkListenerEvent) extends Item

  /** A line that is made when its turn comes. */
  final case class Message(line: () => String) extends Item

  /** A line that a query waits for, or will. */
  final class Request(val line: () => String) extends Item
  case object End extends Item
}
