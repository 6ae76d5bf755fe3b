package org.apache.spark.sql.execution.phoebe

import java.io.{BufferedOutputStream, File, FilterOutputStream, OutputStream}
import java.nio.file.{Files, Path, Paths}
import java.util.{Map => JavaMap, Optional}
import java.util.zip.{CheckedOutputStream, CRC32C}

import org.apache.spark.{SparkConf, SparkEnv, TaskContext}
import org.apache.spark.shuffle.api._
import org.apache.spark.shuffle.api.metadata.MapOutputCommitMessage
import org.apache.spark.shuffle.sort.io.LocalDiskShuffleDataIO
import org.apache.spark.sql.execution.phoebe.executor.LinkedOutput
import org.apache.spark.sql.execution.phoebe.rpc.CheckpointMessages.MapOutput
import phoebe.store.PackWriter

/**
 * The ways to write a checkpoint that the plugin does not take, for the bench `checkpoint_ways`: the
 * map task itself writes to the store, and ends when it has. Which way, and where to, each job says
 * in local properties:
 *
 *   - `copy`: as it ends, it packs its shuffle files into the store, as an upload would beside it
 *   - `tee`: every byte of its shuffle output goes to a file in the store as well, with a checksum;
 *     its only spill cannot become its output by a mere rename then
 *
 * No checkpoint comes of it: it measures what the tasks pay.
 */
final class TaskWritesDataIO(conf: SparkConf) extends ShuffleDataIO {
  private val local = new LocalDiskShuffleDataIO(conf)

  override def driver(): ShuffleDriverComponents = local.driver()
  override def executor(): ShuffleExecutorComponents = new TaskWritesComponents(local.executor())
}

private final class TaskWritesComponents(local: ShuffleExecutorComponents)
    extends ShuffleExecutorComponents {

  override def initializeExecutor(
      appId: String,
      execId: String,
      settings: JavaMap[String, String]
  ): Unit = local.initializeExecutor(appId, execId, settings)

  override def createMapOutputWriter(
      shuffleId: Int,
      mapId: Long,
      partitions: Int
  ): ShuffleMapOutputWriter = {
    val writer = local.createMapOutputWriter(shuffleId, mapId, partitions)
    way match {
      case Some("copy") => new CopyingWriter(writer, shuffleId, mapId)
      case Some("tee") => new TeeingWriter(writer, target(shuffleId, mapId))
      case _ => writer
    }
  }

  override def createSingleFileMapOutputWriter(
      shuffleId: Int,
      mapId: Long
  ): Optional[SingleSpillShuffleMapOutputWriter] = way match {
    case Some("tee") => Optional.empty()
    case Some("copy") =>
      local.createSingleFileMapOutputWriter(shuffleId, mapId).map {
        writer => (spill: File, lengths: Array[Long], checksums: Array[Long]) =>
          {
            writer.transferMapSpillFile(spill, lengths, checksums)
            copy(shuffleId, mapId, lengths)
          }
      }
    case _ => local.createSingleFileMapOutputWriter(shuffleId, mapId)
  }

  private def property(name: String) = Option(TaskContext.get().getLocalProperty(name))
  private def way = property("phoebe.testing.way")

  private def target(shuffleId: Int, mapId: Long): Path =
    Paths.get(property("phoebe.testing.folder").get, s"$shuffleId-$mapId.pack")

  private def copy(shuffleId: Int, mapId: Long, lengths: Array[Long]): Unit = {
    val env = SparkEnv.get
    val output = LinkedOutput.of(
      env,
      shuffleId,
      MapOutput(0, mapId, lengths.length, lengths.sum, 0, 0)
    )
    val file = target(shuffleId, mapId)
    val out = new BufferedOutputStream(Files.newOutputStream(file), 1 << 18) // as an upload has
    try PackWriter.write(file.toString, Vector(output.source(env)), out)
    finally {
      out.close()
      output.release()
    }
  }

  private final class CopyingWriter(writer: ShuffleMapOutputWriter, shuffleId: Int, mapId: Long)
      extends ShuffleMapOutputWriter {
    override def getPartitionWriter(partition: Int): ShufflePartitionWriter =
      writer.getPartitionWriter(partition)

    override def commitAllPartitions(checksums: Array[Long]): MapOutputCommitMessage = {
      val message = writer.commitAllPartitions(checksums)
      copy(shuffleId, mapId, message.getPartitionLengths)
      message
    }

    override def abort(error: Throwable): Unit = writer.abort(error)
  }

  private final class TeeingWriter(writer: ShuffleMapOutputWriter, file: Path)
      extends ShuffleMapOutputWriter {
    private val store = new CheckedOutputStream(
      new BufferedOutputStream(Files.newOutputStream(file), 1 << 20),
      new CRC32C
    )

    override def getPartitionWriter(partition: Int): ShufflePartitionWriter = {
      val one = writer.getPartitionWriter(partition)
      new ShufflePartitionWriter {
        override def openStream(): OutputStream = new FilterOutputStream(one.openStream()) {
          override def write(byte: Int): Unit = {
            out.write(byte)
            store.write(byte)
          }
          override def write(bytes: Array[Byte], offset: Int, length: Int): Unit = {
            out.write(bytes, offset, length)
            store.write(bytes, offset, length)
          }
        }
        override def getNumBytesWritten: Long = one.getNumBytesWritten
      }
    }

    override def commitAllPartitions(checksums: Array[Long]): MapOutputCommitMessage = {
      store.close()
      writer.commitAllPartitions(checksums)
    }

    override def abort(error: Throwable): Unit = {
      store.close()
      writer.abort(error)
    }
  }
}
