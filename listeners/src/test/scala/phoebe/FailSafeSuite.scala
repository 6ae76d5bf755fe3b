package phoebe

import java.util.concurrent.{CountDownLatch, Executors}

import org.scalatest.funsuite.AnyFunSuite

/** What is begun on threads that have ended with their application is no failure. */
class FailSafeSuite extends AnyFunSuite {
  test("work for a pool is guarded, and left undone once the pool has ended") {
    val pool = Executors.newSingleThreadScheduledExecutor()
    val done = new CountDownLatch(2)
    FailSafe.on(pool, "fail on a pool")(throw new IllegalStateException("on purpose"))
    FailSafe.on(pool, "run on a pool")(done.countDown())
    FailSafe.later(pool, 1, "run later")(done.countDown())
    done.await()
    pool.shutdown()
    val before = FailSafe.counts
    FailSafe.on(pool, "run on a pool")(fail("it has ended"))
    FailSafe.later(pool, 1, "run later")(fail("it has ended"))
    assert(before("fail on a pool") == 1)
    assert(FailSafe.counts == before)
  }
}
