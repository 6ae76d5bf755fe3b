package org.apache.spark.sql.execution.phoebe.executor

import java.util.concurrent.{LinkedBlockingQueue, TimeUnit}

import org.scalatest.funsuite.AnyFunSuite

import org.apache.spark.{SparkEnv, SparkException, TaskContext, TaskContextImpl}
import org.apache.spark.rpc.{RpcCallContext, RpcEndpointRef, RpcEnv, ThreadSafeRpcEndpoint}

import org.apache.spark.sql.execution.phoebe.rpc.CheckpointMessages
import org.apache.spark.sql.execution.phoebe.rpc.CheckpointMessages._
import phoebe.store.CheckpointPlace
import phoebe.testing.LocalContext

/** Local files stay as long as somebody here may read them. */
class ReaderLeaseSuite extends AnyFunSuite {

  test("a reader holds its lease although the driver's answer to its executor did not come") {
    LocalContext.using() { _ =>
      val env = SparkEnv.get
      val heard = new LinkedBlockingQueue[AnyRef]
      val joined = new LinkedBlockingQueue[RpcEndpointRef]
      val driver = env.rpcEnv.setupEndpoint(
        CheckpointMessages.Driver,
        new ThreadSafeRpcEndpoint {
          override val rpcEnv: RpcEnv = env.rpcEnv
          override def receive: PartialFunction[Any, Unit] = { case bytes: Array[Byte] =>
            heard.add(decode(bytes))
          }
          override def receiveAndReply(context: RpcCallContext): PartialFunction[Any, Unit] = {
            case (_: Array[Byte], from: RpcEndpointRef) =>
              joined.add(from)
              context.sendFailure(new SparkException("the answer is lost"))
          }
        }
      )
      val executor = new ExecutorCheckpoints(env)
      val task = TaskContext.empty().asInstanceOf[TaskContextImpl]
      intercept[SparkException](executor.reading(7, task))
      val ref = joined.poll(60, TimeUnit.SECONDS)
      val place = CheckpointPlace("file:/store", "f" * 64, "0" * 32)
      ref.send(encode(Switch(7, Stored(place, Array.empty, 0))))
      ref.askSync[Any](encode(Free(8, Array.empty))) // it has heard of the switch before this
      assert(heard.isEmpty, "its reader may still read local files")
      task.markTaskCompleted(None)
      assert(heard.poll(60, TimeUnit.SECONDS) == Drained(7, env.executorId))
      env.rpcEnv.stop(driver)
    }
  }
}
