package org.apache.spark.sql.execution.phoebe.exchange

import scala.util.Random

import org.scalatest.funsuite.AnyFunSuite

import org.apache.hadoop.conf.Configuration

import org.apache.spark.{
  PartitionIdPassthrough,
  ShuffleDependency,
  SparkContext,
  SparkEnv,
  TaskContext
}
import org.apache.spark.scheduler.MapStatus
import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.execution.UnsafeRowSerializer
import org.apache.spark.sql.execution.metric.{
  SQLMetrics,
  SQLShuffleReadMetricsReporter,
  SQLShuffleWriteMetricsReporter
}
import org.apache.spark.util.SerializableConfiguration

import org.apache.spark.sql.execution.phoebe.driver.MapStatuses
import org.apache.spark.sql.execution.phoebe.executor.CheckpointSource
import org.apache.spark.sql.execution.phoebe.rpc.CheckpointMessages
import org.apache.spark.sql.execution.phoebe.rpc.CheckpointMessages.{Stored, Switch}
import phoebe.store.{CheckpointPlace, Manifest, ManifestPack, Manifests}
import phoebe.testing.LocalContext

/** How what travels with tasks, and what the driver keeps, grows with map tasks and partitions. */
class SizesSuite extends AnyFunSuite {
  private val Few = 100
  private val Many = 1000
  private val place = CheckpointPlace("/store", "f" * 64, "0" * 32)

  private def serialized(value: AnyRef): Int =
    SparkEnv.get.closureSerializer.newInstance().serialize(value).limit()

  private def reader(sc: SparkContext, maps: Int, partitions: Int): CheckpointShuffleRDD = {
    val source =
      CheckpointSource(place, SerializableConfiguration.broadcast(sc, new Configuration), false)
    val write = SQLShuffleWriteMetricsReporter.createShuffleWriteMetrics(sc)
    val dataSize = SQLMetrics.createSizeMetric(sc, "data size")
    val rows = sc.range(0, maps, 1, maps)
      .map(i => (i.toInt, InternalRow.empty): Product2[Int, InternalRow])
    val dependency = new ShuffleDependency[Int, InternalRow, InternalRow](
      rows,
      new PartitionIdPassthrough(partitions),
      new UnsafeRowSerializer(1, dataSize),
      shuffleWriterProcessor = new CheckpointWriteProcessor(source, write, dataSize)
    )
    val read = SQLShuffleReadMetricsReporter.createShuffleReadMetrics(sc)
    new CheckpointShuffleRDD(dependency, read, source)
  }

  /** What the scheduler broadcasts for a stage, and what each of its tasks has of its own. */
  private def sizes(sc: SparkContext, maps: Int, partitions: Int): (Int, Int) = {
    val rdd = reader(sc, maps, partitions)
    val body = (_: TaskContext, rows: Iterator[InternalRow]) => rows.size
    (serialized((rdd, body)), serialized(rdd.partitions.last))
  }

  test("a task carries nothing for each map task, and a partition's bounds for each partition") {
    LocalContext.using() { sc =>
      val (small, own) = sizes(sc, Few, Few)
      val (maps, ownMaps) = sizes(sc, Many, Few)
      val (partitions, ownPartitions) = sizes(sc, Few, Many)
      val (both, ownBoth) = sizes(sc, Many, Many)
      info(s"task binaries: $small, maps x 10: $maps, partitions x 10: $partitions, both: $both")
      info(s"a task's own: $own, $ownMaps, $ownPartitions, $ownBoth")
      assert(math.abs(maps - small) < 64 && math.abs(both - partitions) < 64)
      assert(partitions - small < 32 * (Many - Few))
      assert(Seq(own, ownMaps, ownPartitions, ownBoth).forall(_ < 512))
      assert(ownBoth - own < 64)
    }
  }

  private def manifest(maps: Int, partitions: Int): Manifest = {
    val random = new Random(20210711)
    val statuses = Seq.tabulate(maps) { map =>
      MapStatus(
        StoreLocation(1, map),
        Array.fill(partitions)(1000L + random.nextInt(1000000)),
        map.toLong
      )
    }
    val packs = (0 until maps).grouped(50).map { held =>
      ManifestPack(
        s"m${held.head}-${held.head}.pack",
        1L << 30,
        1L << 29,
        77,
        1 << 20,
        held.map(_.toLong)
      )
    }
    Manifests.small(place.fingerprint, owner = "0" * 32, bytes = 30).copy(
      inputs = "1" * 64,
      numMaps = maps,
      numPartitions = partitions,
      rows = 5,
      dataSizeBytes = 60,
      packs = packs.toSeq,
      mapIds = (0 until maps).map(_.toLong),
      statuses = MapStatuses.encode(statuses)
    )
  }

  private def encoded(maps: Int, partitions: Int): Int =
    Manifest.encode(manifest(maps, partitions)).length

  test(
    "a manifest grows with map tasks, with partitions, and beside Spark's sizes with their sum"
  ) {
    val small = encoded(Few, Few)
    val maps = encoded(Many, Few)
    val partitions = encoded(Few, Many)
    info(s"manifests: $small, maps x 10: $maps, partitions x 10: $partitions")
    assert(maps <= 12 * small && partitions <= 12 * small)
    // Sizes of blocks are kept as the map output tracker keeps them: a byte each, before gzip and
    // base64, or a few for a whole map task where there are more than 2,000.
    val both = manifest(Many, Many)
    assert(both.statuses.length <= Many * Many * 4 / 3 + 100 * Many)
    def rest(m: Manifest) = Manifest.encode(m.copy(statuses = "")).length
    val beside = rest(manifest(Few, Few))
    info(s"beside the sizes: $beside, both x 10: ${rest(both)}")
    assert(rest(both) <= 12 * beside)
    val wide = encoded(Few, 2001)
    val wider = encoded(Few, 20010)
    info(s"2,001 partitions: $wide, 20,010: $wider")
    assert(wider <= 12 * wide && wide < partitions)
  }

  test("what an executor is told of a checkpoint is a number for each map task") {
    LocalContext.using() { _ =>
      def told(maps: Int, partitions: Int) = {
        val packs = manifest(maps, partitions).packs.map(_.pack).toArray
        CheckpointMessages.encode(Switch(1, Stored(place, packs, 1))).length
      }
      val small = told(Few, Few)
      assert(told(Few, Many) == small)
      assert(told(Many, Many) <= 12 * small)
    }
  }

  test("an executor that was told of a checkpoint knows its map outputs") {
    val packs = manifest(Few, 1).packs.map(_.pack).toArray
    val message = CheckpointMessages.encode(Switch(1, Stored(place, packs, 1)))
    val stored = CheckpointMessages.decode(message).asInstanceOf[Switch].stored
    assert((0 until Few).forall(stored.holds(_)) && !stored.holds(Few))
  }
}
