package org.apache.spark.sql.execution.phoebe

import java.util.concurrent.{ConcurrentLinkedQueue, LinkedBlockingDeque, TimeUnit}
import java.util.concurrent.atomic.AtomicLong

import org.apache.spark.scheduler.SparkListenerEvent

/**
 * What waits for the companion: bounded, never blocking the thread that puts something in.
 *
 * Events beyond `capacity` are dropped and counted; the plugin's own messages (few, and each tells
 * of a decision) have a reserve on top; requests that a query waits for go first, in their order.
 */
final private[phoebe] class Outbox(capacity: Int) {
  import Outbox._

  private val queue = new LinkedBlockingDeque[Item](capacity + Reserve)
  private val requests = new ConcurrentLinkedQueue[Request]()
  private val droppedCount = new AtomicLong()
  @volatile private var closed = false

  def dropped: Long = droppedCount.get()

  /** An event that was taken could not be handed on. */
  def lost(): Unit = droppedCount.incrementAndGet()

  def isEmpty: Boolean = queue.isEmpty

  def event(event: SparkListenerEvent): Unit =
    if (!closed && (queue.size >= capacity || !queue.offerLast(Event(event)))) {
      droppedCount.incrementAndGet()
    }

  def message(line: => String): Unit =
    if (!closed && !queue.offerLast(Message(() => line))) droppedCount.incrementAndGet()

  /** False: no room, the request was not taken. */
  def request(line: => String): Boolean = {
    val made = new Request(() => line)
    requests.add(made)
    queue.offerFirst(NextRequest) || {
      requests.remove(made)
      false
    }
  }

  /** The last item; makes room for itself. */
  def end(): Unit = while (!queue.offerLast(End)) {
    queue.pollFirst()
    droppedCount.incrementAndGet()
  }

  /** The next item, or null after `timeoutMs`. */
  def poll(timeoutMs: Long): Item = queue.poll(timeoutMs, TimeUnit.MILLISECONDS) match {
    case NextRequest => requests.poll()
    case item => item
  }

  /** Nobody reads any more: what waits is forgotten, and what comes is not taken. */
  def discard(): Unit = {
    closed = true
    queue.clear()
  }
}

private[phoebe] object Outbox {
  private val Reserve = 1000

  sealed trait Item
  final case class Event(event: SparkListenerEvent) extends Item

  /** A line that is made when its turn comes. */
  final case class Message(line: () => String) extends Item

  /** A line that a query waits for, or will. */
  final class Request(val line: () => String) extends Item
  case object End extends Item

  /** Stands at the head of the queue for each line of `requests`. */
  private case object NextRequest extends Item
}
