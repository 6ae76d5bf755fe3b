package phoebe.store

import java.nio.file.Files
import java.util.concurrent.{
  Callable,
  CountDownLatch,
  CyclicBarrier,
  Executors,
  ExecutorService,
  TimeUnit
}
import java.util.concurrent.atomic.AtomicBoolean

import org.apache.hadoop.conf.Configuration
import org.apache.hadoop.fs.Path
import org.scalatest.funsuite.AnyFunSuite

import phoebe.testing.{SlowFileSystem, SlowRequests}

/** How often the marker is read when all boundaries of a query ask for it at once. */
class StoreDirectorySuite extends AnyFunSuite {
  private val Readers = 8

  private def made(scheme: String, conf: Configuration): StoreDirectory = {
    val root = new Path(s"$scheme://${Files.createTempDirectory("phoebe-marker")}/store")
    val directory = new StoreDirectory(root, conf, shared = false)
    directory.prepare()
    directory
  }

  private def withThreads(body: ExecutorService => Unit): Unit = {
    val pool = Executors.newCachedThreadPool()
    try body(pool)
    finally pool.shutdownNow(): Unit
  }

  /** How often readers that ask at once have the marker read; None: not all of them were quick. */
  private def together(pool: ExecutorService): Option[Long] = {
    val directory = made("slow", SlowFileSystem.configured)
    val barrier = new CyclicBarrier(Readers)
    SlowRequests.reset()
    SlowRequests.setLatencyMs(50)
    try {
      val began = System.nanoTime()
      val asked = (1 to Readers).map { _ =>
        pool.submit((() => { barrier.await(); directory.wasJustNow() }): Callable[Unit])
      }
      asked.foreach(_.get(60, TimeUnit.SECONDS))
      Some(SlowRequests.count("read")).filter(_ => System.nanoTime() - began < 900L * 1000 * 1000)
    } finally SlowRequests.setLatencyMs(0)
  }

  test("readers that ask at once have the marker read once") {
    withThreads { pool =>
      // One that has waited for a second looks for itself: on a busy machine that says nothing.
      val quick = Iterator.continually(together(pool)).take(20).flatten.nextOption()
      assert(quick.contains(1L))
    }
  }

  test("a marker that was read is read again after some moments") {
    val directory = made("slow", SlowFileSystem.configured)
    directory.wasJustNow()
    directory.fs.delete(StoreMarker.path(directory.root), false)
    val deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(60)
    intercept[StoreRefusedException] {
      while (System.nanoTime() < deadline) {
        directory.wasJustNow()
        Thread.sleep(10)
      }
    }
  }

  test("a reader whose look at the marker hangs holds up no others") {
    val conf = new Configuration
    conf.set("fs.once.impl", classOf[HangsOnce].getName)
    val directory = made("once", conf)
    withThreads { pool =>
      def ask() = pool.submit((() => directory.wasJustNow()): Callable[Unit])
      HangsOnce.next.set(true)
      try {
        val hangs = ask()
        assert(HangsOnce.reached.await(60, TimeUnit.SECONDS))
        Seq.fill(Readers)(ask()).foreach(_.get(60, TimeUnit.SECONDS))
        assert(!hangs.isDone)
        HangsOnce.goes.countDown()
        hangs.get(60, TimeUnit.SECONDS)
      } finally HangsOnce.goes.countDown()
    }
  }
}

object HangsOnce {
  val next = new AtomicBoolean
  val reached, goes = new CountDownLatch(1)
}

/** One read hangs until it is let go. */
final class HangsOnce extends SlowFileSystem("once") {
  override protected def request(kind: String): Unit = {
    super.request(kind)
    if (kind == "read" && HangsOnce.next.compareAndSet(true, false)) {
      HangsOnce.reached.countDown()
      HangsOnce.goes.await()
    }
  }
}
