// In Spark's package for RpcEndpointRef, Utils.serialize (private[spark]).
package org.apache.spark.sql.execution.phoebe.rpc

import org.apache.spark.rpc.RpcEndpointRef
import org.apache.spark.util.Utils
import phoebe.Reason
import phoebe.store.{CheckpointPlace, Pack}

/**
 * The messages between driver and executors about checkpointed shuffles, over Spark's own RPC.
 *
 * An executor joins a shuffle when it first uploads or reads it. Later it is notified of the switch to
 * the store, reports the end of its last reader of local files, and is told to free the files.
 *
 * Messages are sent as plain bytes. Spark's RPC reads messages with Spark's own class loader, which on
 * an executor does not know a jar that came with `--jars`. A message that it cannot read breaks the
 * connection to the driver, and with it the executor.
 */
object CheckpointMessages {

  /** The name of the driver's endpoint. */
  val Driver = "phoebe-checkpoints"

  def encode(message: Serializable): Array[Byte] = Utils.serialize(message)

  def decode(bytes: Array[Byte]): AnyRef =
    Utils.deserialize[AnyRef](bytes, getClass.getClassLoader)

  /** Sends a message and waits for the answer, which is a message too. */
  def ask[T](to: RpcEndpointRef, message: Serializable, from: RpcEndpointRef = null): T =
    decode(to.askSync[Array[Byte]]((encode(message), from))).asInstanceOf[T]

  /** Executor to driver, from the executor's own endpoint, at its start: gives its address. */
  final case class Hello(executorId: String)

  /** Executor to driver, from the executor's own endpoint; the answer is a [[ShuffleState]]. */
  final case class Join(shuffleId: Int, executorId: String)

  /**
   * Executor to driver, after each upload. The answer says whether to go on with others. An executor that
   * gives up sends it without waiting for an answer.
   */
  final case class Uploaded(shuffleId: Int, upload: Upload)

  /** Executor to driver: no task here reads local files of this shuffle any more. */
  final case class Drained(shuffleId: Int, executorId: String)

  /**
   * Executor to driver: an output that the driver located in the store cannot be read there. The
   * answer says whether it can be computed.
   */
  final case class Unreadable(shuffleId: Int, mapIndex: Int, why: String)

  /** Driver to executor: the map stage is over, and no more outputs will come. */
  final case class Flush(shuffleId: Int)

  /** Driver to executor: committed; new readers go to the store. */
  final case class Switch(shuffleId: Int, stored: Stored)

  /** Driver to executor: remove local files; the answer is their bytes. */
  final case class Free(shuffleId: Int, mapIds: Array[Long])

  /** Driver to executor: the checkpoint is given up, stop uploading. */
  final case class Close(shuffleId: Int)

  /** Driver to executor: the shuffle was unregistered, forget its state. */
  final case class Forget(shuffleId: Int)

  /** The state of a shuffle when an executor joins. */
  sealed trait ShuffleState extends Serializable

  /** Map tasks run, or their outputs are being uploaded. */
  final case class Uploading(place: CheckpointPlace, stageIsOver: Boolean) extends ShuffleState

  /** Committed: outputs that the map output tracker locates in the store are read there. */
  final case class Stored(place: CheckpointPlace, packs: Array[Pack], epoch: Long)
      extends ShuffleState {
    @transient private lazy val mapIds = packs.iterator.flatMap(_.mapIds).toSet

    def holds(mapId: Long): Boolean = mapIds.contains(mapId)
  }

  /** An ordinary shuffle, without a checkpoint (any more). */
  case object Ordinary extends ShuffleState

  /**
   * One pack that was written, or why it was not.
   *
   * @param maps
   *   the outputs in it
   * @param error
   *   null if the upload succeeded
   */
  final case class Upload(pack: Pack, maps: Array[MapOutput], copyNs: Long, error: Reason)

  object Upload {
    def failed(maps: Array[MapOutput], why: Throwable): Upload = {
      val indices = maps.map(_.mapIndex)
      val reason = Reason(
        "copy_failed",
        s"uploading map outputs ${indices.mkString(", ")} failed: $why",
        Map("map_index" -> indices.head)
      )
      Upload(null, maps, 0, reason)
    }
  }

  /** A map task's output, with bytes and rows as Spark's shuffle writer counted them. */
  final case class MapOutput(
      mapIndex: Int,
      mapId: Long,
      numPartitions: Int,
      bytes: Long,
      rows: Long,
      dataSize: Long
  )
}
