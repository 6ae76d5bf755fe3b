package org.apache.spark.sql.execution.phoebe.planner

import java.nio.file.Files

import org.scalatest.concurrent.Eventually
import org.scalatest.funsuite.AnyFunSuite
import org.scalatest.time.{Seconds, Span}

import org.apache.spark.{SparkConf, SparkContext, SparkEnv}
import org.apache.spark.sql.classic.{DataFrame, SparkSession}
import org.apache.spark.storage.{ShuffleIndexBlockId, StorageLevel}

import org.apache.spark.sql.execution.phoebe.exchange.StoreLocation
import phoebe.planner.SupportChecks
import phoebe.plugin.PhoebeRuntime
import phoebe.settings.PhoebeSettings
import phoebe.testing.{ForeignExtensions, LocalContext}

/** The plugin in applications with others' extensions, and where Spark moves what is in the store. */
class BesideOthersSuite extends AnyFunSuite with Eventually {
  implicit private val patience: PatienceConfig =
    PatienceConfig(Span(60, Seconds), Span(1, Seconds))

  private val folder = Files.createTempDirectory("phoebe-beside")
  private val settings = Seq(
    "spark.plugins" -> "phoebe.PhoebePlugin",
    "spark.phoebe.home" -> folder.resolve("home").toString,
    "spark.phoebe.mode" -> "apply",
    "spark.phoebe.force" -> "all",
    "spark.phoebe.harvest.sink" -> "spool",
    "spark.sql.shuffle.partitions" -> "2",
    "spark.sql.catalogImplementation" -> "in-memory"
  )

  private def session(sc: SparkContext, extension: ForeignExtensions.Extension): SparkSession = {
    SparkSession.clearActiveSession()
    SparkSession.clearDefaultSession()
    SparkSession.builder().sparkContext(sc).withExtensions(extension).getOrCreate()
  }

  /** A query with boundaries, over files, that is another one for each `n`. */
  private def query(session: SparkSession, n: Int): DataFrame = {
    val table = folder.resolve("table").toString
    if (!Files.exists(folder.resolve("table"))) session.range(100).write.parquet(table)
    session.read.parquet(table).selectExpr(s"id % 7 + $n as k").groupBy("k").count().orderBy("k")
      .asInstanceOf[DataFrame]
  }

  private def count(name: String): Long =
    PhoebeRuntime.active.get.counts.getOrElse(name, 0L)

  test("beside other rules for physical plans queries are left to Spark, with the reason") {
    LocalContext.using(settings: _*) { sc =>
      var n = 0
      def run(extension: ForeignExtensions.Extension): Long = {
        n += 1
        val before = count("boundaries.checkpoint")
        assert(query(session(sc, extension), n).collect().length == 7)
        count("boundaries.checkpoint") - before
      }
      assert(run(_ => ()) == 2)
      assert(run(ForeignExtensions.logical) == 2)
      Seq(
        ForeignExtensions.columnar -> "columnar_rules",
        ForeignExtensions.preparing -> "physical_rules",
        ForeignExtensions.optimizing -> "physical_rules",
        ForeignExtensions.planning -> "foreign_operator"
      ).foreach { case (extension, code) =>
        val before = count(s"left_alone.$code")
        assert(run(extension) == 0, code)
        assert(count(s"left_alone.$code") == before + 1)
      }
      assert(run(_ => ()) == 2)
      eventually(assert(count("checkpoints.committed") == 6))
    }
  }

  test("a file that is moved after its output was committed does not take readers from the store") {
    LocalContext.using(settings: _*) { sc =>
      // Counted for the process: other suites let things fail on purpose.
      def failures = PhoebeRuntime.active.get.counts.filter(_._1.startsWith("failed."))
      val failed = failures
      val asked = query(session(sc, _ => ()), 100)
      asked.collect()
      def stored = StoreLocation.tracker.shuffleStatuses.toSeq.flatMap { case (id, status) =>
        status.withMapStatuses(_.toSeq).filter(s => s != null && StoreLocation.matches(s.location))
          .map(s => id -> s.mapId)
      }
      eventually(assert(stored.map(_._1).distinct.size == 2))
      eventually(assert(count("checkpoints.freed") >= 2))
      val before = stored.toSet
      val blocks = SparkEnv.get.blockManager
      // As the executor does that has got the files of one that is being decommissioned.
      before.foreach { case (id, mapId) =>
        val index = ShuffleIndexBlockId(id, mapId, 0)
        blocks.master.updateBlockInfo(blocks.blockManagerId, index, StorageLevel.DISK_ONLY, 0, 1)
      }
      eventually(assert(stored.toSet == before))
      assert(query(session(sc, _ => ()), 100).collect().length == 7)
      assert(asked.collect().length == 7)
      assert(failures == failed)
    }
  }

  test("accelerators are known by their plugins and extensions") {
    def reason(key: String, value: String) =
      SupportChecks.accelerator(new SparkConf(false).set(key, value)).map(_.code)
    Seq(
      "spark.plugins" -> "com.nvidia.spark.SQLPlugin",
      "spark.plugins" -> "phoebe.PhoebePlugin,org.apache.gluten.GlutenPlugin",
      "spark.plugins" -> "org.apache.spark.CometPlugin",
      "spark.sql.extensions" -> "org.apache.comet.CometSparkSessionExtensions",
      "spark.sql.extensions" -> "org.apache.spark.sql.auron.AuronSparkSessionExtension"
    ).foreach { case (key, value) => assert(reason(key, value).contains("accelerator"), value) }
    Seq(
      "spark.plugins" -> "io.dataflint.spark.SparkDataflintPlugin",
      "spark.sql.extensions" -> "io.delta.sql.DeltaSparkSessionExtension"
    ).foreach { case (key, value) => assert(reason(key, value).isEmpty, value) }
  }

  test("map outputs known by their index, and stages of one attempt, are left alone") {
    Seq(
      "spark.shuffle.useOldFetchProtocol" -> "true" -> "old_fetch_protocol",
      "spark.stage.maxConsecutiveAttempts" -> "1" -> "one_stage_attempt"
    ).foreach { case (setting, code) =>
      LocalContext.using(setting) { sc =>
        val read = PhoebeSettings.read(sc.conf).toOption.get
        assert(SupportChecks.application(read).map(_.code).contains(code))
      }
    }
  }
}
