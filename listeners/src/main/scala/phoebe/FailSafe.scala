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
 * Catches our failures: everything that Spark calls runs through here.
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

  /** Runs `body` on a pool; does nothing if the pool has ended with its application. */
  def on(pool: ExecutorService, where: String)(body: => Unit): Unit =
    unlessOver(pool)(pool.execute(() => run(where)(body)))

  /** Runs `body` on such a pool after a delay. */
  def later(clock: ScheduledExecutorService, ms: Long, where: String)(body: => Unit): Unit =
    unlessOver(clock) {
      clock.schedule((() => run(where)(body)): Runnable, ms, TimeUnit.MILLISECONDS): Unit
    }

  /** Starts work on a pool; ignores a pool that has ended with the application. */
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
