package org.apache.spark.sql.execution.phoebe.executor

import java.io.{ByteArrayOutputStream, File, RandomAccessFile}

import org.scalatest.funsuite.AnyFunSuite

import org.apache.spark.{MapOutputTrackerMaster, SparkEnv}

import org.apache.spark.sql.execution.phoebe.rpc.CheckpointMessages.MapOutput
import phoebe.files.DamagedFileException
import phoebe.store.{Pack, PackWriter}
import phoebe.testing.LocalContext

/** Map outputs of a real shuffle: what Spark wrote goes into packs, and nothing else. */
class LinkedOutputSuite extends AnyFunSuite {
  private val Partitions = 7

  /** Runs a shuffle of one map task and gives its output to `body`, linked. */
  private def linked(settings: (String, String)*)(body: LinkedOutput => Unit): Unit =
    LocalContext.using(settings: _*) { sc =>
      val shuffled = sc.range(0, 10000, 1, 1).map(i => i % 100 -> i).groupByKey(Partitions)
      assert(shuffled.count() == 100)
      val tracker = SparkEnv.get.mapOutputTracker.asInstanceOf[MapOutputTrackerMaster]
      val mapId = tracker.shuffleStatuses(0).withMapStatuses(_.head.mapId)
      val bytes = LinkedOutput.resolver(SparkEnv.get).getDataFile(0, mapId).length
      body(LinkedOutput.of(SparkEnv.get, 0, MapOutput(0, mapId, Partitions, bytes, 10000, 0)))
    }

  private def pack(output: LinkedOutput): Pack =
    PackWriter.write("m", IndexedSeq(output.source(SparkEnv.get)), new ByteArrayOutputStream)

  private def flip(file: File): Unit = {
    val bytes = new RandomAccessFile(file, "rw")
    try {
      bytes.seek(file.length / 2)
      val was = bytes.read()
      bytes.seek(file.length / 2)
      bytes.write(was ^ 1)
    } finally bytes.close()
  }

  test("a shuffle file that has gone bad is not stored") {
    linked() { output =>
      assert(output.checksums.exists(_.length == 8 * Partitions))
      pack(output)
      flip(output.data.get)
      val e = intercept[DamagedFileException](pack(output))
      assert(e.getMessage.contains("ADLER32"))
      output.release()
      assert((output.checksums ++ output.data).forall(!_.exists))
    }
  }

  test("checksums of some partitions only are none") {
    linked() { output =>
      val resolver = LinkedOutput.resolver(SparkEnv.get)
      val file = resolver.getChecksumFile(0, output.output.mapId, "ADLER32")
      output.release()
      val cut = new RandomAccessFile(file, "rw")
      try cut.setLength(8L)
      finally cut.close()
      assert(LinkedOutput.of(SparkEnv.get, 0, output.output).checksums.isEmpty)
    }
  }

  test("files are what their checksums say, however Spark wrote them") {
    val sorted = "spark.shuffle.sort.bypassMergeThreshold" -> "1"
    Seq(
      Seq.empty,
      Seq(sorted),
      Seq(sorted, "spark.shuffle.compress" -> "false"),
      Seq(sorted, "spark.shuffle.checksum.algorithm" -> "CRC32C"),
      Seq(sorted, "spark.shuffle.spill.numElementsForceSpillThreshold" -> "500")
    ).foreach { settings =>
      linked(settings: _*) { output =>
        assert(output.checksums.isDefined && pack(output).bytes > 0)
      }
    }
  }

  test("without checksums of Spark's there is nothing to compare with") {
    Seq("spark.shuffle.checksum.enabled", "spark.shuffle.unsafe.fastMergeEnabled").foreach { key =>
      linked(key -> "false") { output =>
        assert(output.checksums.isEmpty)
        flip(output.data.get)
        pack(output)
      }
    }
  }
}
