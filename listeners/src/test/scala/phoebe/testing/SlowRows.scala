package phoebe.testing

import java.util.concurrent.locks.LockSupport

/**
 * Rows that take their time without a processor's: `reflect('phoebe.testing.SlowRows', 'pause', n)`
 * waits so many microseconds, and is '0'.
 */
object SlowRows {

  /** A task that is killed does not wait on. */
  def pause(micros: Int): Int = {
    LockSupport.parkNanos(micros * 1000L)
    if (Thread.currentThread().isInterrupted) throw new InterruptedException
    0
  }
}
