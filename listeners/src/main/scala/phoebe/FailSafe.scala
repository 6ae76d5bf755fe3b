package phoebe

import java.util.concurrent.{
  ConcurrentHashMap,
  ExecutorService,
  RejectedExecutionException,
  ScheduledExecutorService,
  TimeUnit
}
import java.util.concurrent.atomic.LongAdder

import scala.jdk.CollectionConverters._
import scala.util.control.NonFatal

import org.apache.spark.internal.Logging

/**
 * The one place where our failures stop: everything that Spark calls goes through here.
 *
 * A failure is counted under its place and logged once for each place and exception class; the
 * caller gets the default. Interrupts and fatal errors pass (a cancelled query must stay
 * cancelled); `LinkageError` (another Spark build) and `StackOverflowError` (very deep plans) do not.
 */
object FailSafe extends Logging {
  private val failures = new ConcurrentHashMap[String, LongAdder]()
  private val logged = ConcurrentHashMap.newKeySet[String]()

  def apply[T](where: String, default: => T)(body: => T): T =
    try body
    catch {
      case e: LinkageError => note(where, e); default
      case e: StackOverflowError => note(where, e); default
      case NonFatal(e) => note(where, e); default
    }

  def run(where: String)(body: => Unit): Unit = apply(where, ())(body)

  /** On a thread of a pool; not at all where the pool has ended with its application. */
  def on(pool: ExecutorService, where: String)(body: => Unit): Unit =
    unlessOver(pool)(pool.execute(() => run(where)(body)))

  /** In a while, on such a pool. */
  def later(clock: ScheduledExecutorService, ms: Long, where: String)(body: => Unit): Unit =
    unlessOver(clock) {
      clock.schedule((() => run(where)(body)): Runnable, ms, TimeUnit.MILLISECONDS): Unit
    }

  /** Begins what runs on a pool; the application's end has no use for it. */
  def unlessOver(pool: ExecutorService)(begin: => Unit): Unit =
    try begin
    catch { case _: RejectedExecutionException if pool.isShutdown => }

  /** Failures so far, by place. */
  def counts: Map[String, Long] = failures.asScala.view.mapValues(_.sum()).toMap

  private def note(where: String, e: Throwable): Unit = {
    failures.computeIfAbsent(where, _ => new LongAdder).increment()
    if (logged.add(s"$where/${e.getClass.getName}")) {
      logWarning(
        s"phoebe: failed in $where, the job goes on without it (further ones are counted only)",
        e
      )
    }
  }
}
