package org.apache.spark.sql.execution.phoebe

import scala.util.control.NonFatal

import org.apache.spark.internal.Logging
import org.apache.spark.rpc.{RpcCallContext, RpcEndpoint, RpcEnv}
import org.apache.spark.sql.execution.phoebe.CheckpointMessages._

/** The driver's end of [[CheckpointMessages]]: passes each word on to the shuffle that it is about. */
private[phoebe] final class CheckpointEndpoint(
    override val rpcEnv: RpcEnv,
    shuffles: CheckpointedShuffles
) extends RpcEndpoint
    with Logging {

  override def receive: PartialFunction[Any, Unit] = {
    case Drained(id, executor) =>
      Guard.run("note a drained executor")(shuffles.get(id).foreach(_.drained(executor)))
  }

  override def receiveAndReply(context: RpcCallContext): PartialFunction[Any, Unit] = {
    case Join(id, executor, ref) =>
      answer(context)(shuffles.get(id).fold[ShuffleState](Ordinary)(_.join(executor, ref)))
    case Uploaded(id, _, upload) => answer(context)(shuffles.get(id).exists(_.uploaded(upload)))
  }

  private def answer(context: RpcCallContext)(body: => Any): Unit =
    try context.reply(body)
    catch { case NonFatal(e) => context.sendFailure(e) }
}

private[phoebe] object CheckpointEndpoint {
  val Name = "phoebe-checkpoints"
}
