// In Spark's package for RpcEndpoint, RpcEnv (private[spark]).
package org.apache.spark.sql.execution.phoebe.driver

import scala.util.control.NonFatal

import org.apache.spark.{SparkEnv, SparkException}
import org.apache.spark.internal.Logging
import org.apache.spark.rpc.{RpcCallContext, RpcEndpoint, RpcEndpointRef, RpcEnv}
import org.apache.spark.sql.execution.phoebe.rpc.CheckpointMessages
import org.apache.spark.sql.execution.phoebe.rpc.CheckpointMessages._
import phoebe.FailSafe

/** The driver's end of [[CheckpointMessages]]: passes each message on to its shuffle. */
final class CheckpointEndpoint(
    override val rpcEnv: RpcEnv,
    shuffles: CheckpointedShuffles
) extends RpcEndpoint
    with Logging {

  override def receive: PartialFunction[Any, Unit] = { case bytes: Array[Byte] =>
    FailSafe.run("hear an executor") {
      decode(bytes) match {
        case Drained(id, executor) => shuffles.get(id).foreach(_.drained(executor))
        case Uploaded(id, upload) => shuffles.get(id).foreach(_.uploaded(upload))
        case other => logWarning(s"phoebe: a message that nobody expects: $other")
      }
    }
  }

  override def receiveAndReply(context: RpcCallContext): PartialFunction[Any, Unit] = {
    case (bytes: Array[Byte], from) =>
      try context.reply(encode(answer(decode(bytes), from.asInstanceOf[RpcEndpointRef])))
      catch {
        // The exception itself could be of a class that the other side's RPC cannot read.
        case e @ (NonFatal(_) | _: LinkageError) =>
          context.sendFailure(new SparkException(s"phoebe: $e"))
      }
  }

  private def answer(message: AnyRef, from: RpcEndpointRef): Serializable = message match {
    case Hello(executor) =>
      shuffles.greeted(executor, from)
      java.lang.Boolean.TRUE
    case Join(id, executor) => shuffles.join(id, executor, from)
    case Uploaded(id, upload) =>
      java.lang.Boolean.valueOf(shuffles.get(id).exists(_.uploaded(upload)))
    case Unreadable(id, mapIndex, why) =>
      java.lang.Boolean.valueOf(shuffles.unreadable(id, mapIndex, why))
  }
}

object CheckpointEndpoint {

  /** Opens the endpoint to the executors of this application. */
  def open(shuffles: CheckpointedShuffles): Unit = {
    val rpcEnv = SparkEnv.get.rpcEnv
    rpcEnv.setupEndpoint(CheckpointMessages.Driver, new CheckpointEndpoint(rpcEnv, shuffles)): Unit
  }
}
