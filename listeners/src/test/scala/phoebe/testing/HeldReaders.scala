package phoebe.testing

import java.util.concurrent.{CountDownLatch, TimeUnit}

import org.apache.spark.TaskContext
import org.apache.spark.sql.api.java.UDF1

/**
 * An SQL function that returns its argument; in all tasks of a stage but the first few, only once a
 * test lets them go on: what these tasks still fetch, they fetch after that.
 */
final class HeldReaders extends UDF1[java.lang.Long, java.lang.Long] {
  override def call(value: java.lang.Long): java.lang.Long = {
    if (TaskContext.getPartitionId() >= HeldReaders.FirstTasks) HeldReaders.await()
    value
  }
}

object HeldReaders {
  val FirstTasks = 2
  private val go = new CountDownLatch(1)

  def release(): Unit = go.countDown()

  private def await(): Unit =
    if (!go.await(5, TimeUnit.MINUTES)) throw new IllegalStateException("nobody let the readers go")
}
