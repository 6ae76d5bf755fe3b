package org.apache.spark.sql.execution.phoebe.exchange

import java.io.FileInputStream
import java.nio.file.Files

import org.scalatest.funsuite.AnyFunSuite

import org.apache.spark.{PartitionIdPassthrough, ShuffleDependency, SparkContext, SparkEnv}
import org.apache.spark.rpc.RpcEndpointRef
import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.expressions.UnsafeProjection
import org.apache.spark.sql.execution.UnsafeRowSerializer
import org.apache.spark.sql.execution.exchange.ShuffleExchangeExec
import org.apache.spark.sql.execution.metric.{
  SQLShuffleReadMetricsReporter,
  SQLShuffleWriteMetricsReporter
}
import org.apache.spark.sql.types.{DataType, LongType}
import org.apache.spark.util.SerializableConfiguration

import org.apache.spark.sql.execution.phoebe.driver.{
  CheckpointedShuffle,
  CheckpointedShuffles,
  CheckpointEndpoint
}
import org.apache.spark.sql.execution.phoebe.executor.{CheckpointSource, LinkedOutput}
import org.apache.spark.sql.execution.phoebe.rpc.CheckpointMessages
import org.apache.spark.sql.execution.phoebe.rpc.CheckpointMessages._
import phoebe.Reason
import phoebe.store.{CheckpointPlace, PackSource, PackWriter}
import phoebe.testing.LocalContext

/** In local mode Spark's reader gives rows map output by map output, and so does ours. */
class RowOrderSuite extends AnyFunSuite {
  private val maps = 5

  /** A shuffle that is committed at the moment when its first reader has just asked for it. */
  private final class JustCommitted(place: CheckpointPlace, stored: () => Stored)
      extends CheckpointedShuffle {
    private var asked = 0
    override def executionId = 0L
    override def isOver = false
    override def isStored = true
    override def isUploading = false
    override def isCommitting = false
    override def executors = Map.empty
    override def executorLost(executorId: String): Unit = ()
    override def drained(executorId: String): Unit = ()
    override def uploaded(upload: Upload) = false
    override def abandon(reason: Reason): Unit = ()
    override def join(executorId: String, executor: RpcEndpointRef): ShuffleState = {
      asked += 1
      if (asked == 1) Uploading(place, stageIsOver = true) else stored()
    }
  }

  private def shuffleOf(sc: SparkContext): ShuffleDependency[Int, InternalRow, InternalRow] = {
    val pairs = sc.parallelize(0L until maps.toLong, maps).mapPartitions { ids =>
      val row = UnsafeProjection.create(Array[DataType](LongType))
      ids.map(id => (0, row(InternalRow(id)): InternalRow): Product2[Int, InternalRow])
    }
    new ShuffleDependency[Int, InternalRow, InternalRow](
      pairs,
      new PartitionIdPassthrough(1),
      new UnsafeRowSerializer(1),
      shuffleWriterProcessor = ShuffleExchangeExec.createShuffleWriteProcessor(
        SQLShuffleWriteMetricsReporter.createShuffleWriteMetrics(sc)
      )
    )
  }

  for (switched <- Seq(Set.empty[Int], Set(0), Set(1, 3), Set(4), (0 until maps).toSet)) {
    test(s"a look at the locations comes in between when $switched have been switched") {
      LocalContext.using() { sc =>
        val env = SparkEnv.get
        val shuffles = new CheckpointedShuffles
        val endpoint = env.rpcEnv.setupEndpoint(
          CheckpointMessages.Driver,
          new CheckpointEndpoint(env.rpcEnv, shuffles)
        )
        val store = Files.createTempDirectory("phoebe-order")
        val place = CheckpointPlace(store.toUri.toString, "f" * 64, "0" * 32)
        val directory = Files.createDirectories(java.nio.file.Path.of(place.directory.toUri))
        val dependency = shuffleOf(sc)
        val id = dependency.shuffleId
        val written = sc.submitMapStage(dependency).get()
        assert(written.bytesByPartitionId.length == 1)
        val statuses = StoreLocation.tracker.shuffleStatuses(id).withMapStatuses(_.clone())
        val sources = statuses.map { status =>
          val file = LinkedOutput.resolver(env).getDataFile(id, status.mapId)
          PackSource(status.mapId, Array(file.length), () => new FileInputStream(file))
        }
        val out = Files.newOutputStream(directory.resolve("m0-1.pack"))
        val pack =
          try PackWriter.write("m0-1.pack", sources.toIndexedSeq, out)
          finally out.close()
        def stored = Stored(place, Array(pack), StoreLocation.tracker.getEpoch)
        shuffles.put(id, new JustCommitted(place, () => stored))
        switched.foreach(i => statuses(i).updateLocation(StoreLocation(id, i)))

        val conf = sc.broadcast(new SerializableConfiguration(sc.hadoopConfiguration))
        val metrics = SQLShuffleReadMetricsReporter.createShuffleReadMetrics(sc)
        val source = CheckpointSource(place, conf, restored = false)
        val read = new CheckpointShuffleRDD(dependency, metrics, source)
        assert(read.map(_.getLong(0)).collect().toSeq == (0L until maps.toLong))
        assert(read.partitions.forall(read.preferredLocations(_).nonEmpty))
        env.rpcEnv.stop(endpoint)
      }
    }
  }
}
