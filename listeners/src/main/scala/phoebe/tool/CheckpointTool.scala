package phoebe.tool

import java.nio.file.{Files, Paths}
import java.util.concurrent.Executors

import scala.concurrent.{Await, ExecutionContext, Future}
import scala.concurrent.duration.Duration

import org.apache.spark.SparkConf
import org.apache.spark.sql.execution.phoebe.compat.SparkInternals
import phoebe.Json
import phoebe.settings.PhoebeSettings
import phoebe.store.{
  CheckpointStore,
  GarbageCollection,
  Limits,
  PackChecks,
  Stocked,
  StoreInventory,
  StoreRefusedException
}

/**
 * The JVM side of `phoebe checkpoints`, for any Hadoop file system: it reads, checks and collects as
 * drivers do. Run by spark-submit, so that the store's settings and credentials are those of the jobs.
 * It starts no Spark.
 *
 * {{{
 * CheckpointTool OUTPUT list|verify|gc|plan STORE [MAX_AGE_HOURS] [MAX_STORE_BYTES]
 * }}}
 *
 * `plan` says what `gc` would do; "" as a limit is the setting's value. The file OUTPUT gets one JSON
 * array, or an object with `error`.
 */
object CheckpointTool {

  def main(arguments: Array[String]): Unit = {
    val output = Paths.get(arguments(0))
    val answer =
      try run(arguments.drop(1).toSeq)
      catch {
        case e: StoreRefusedException => Map("error" -> e.getMessage)
        case e: Exception => Map("error" -> e.toString.linesIterator.next())
      }
    Files.writeString(output, Json.write(answer)): Unit
  }

  private def run(arguments: Seq[String]): Seq[Map[String, Any]] = {
    val conf = new SparkConf
    val settings = PhoebeSettings.read(conf) match {
      case Right(found) => found
      case Left(problem) => throw new IllegalArgumentException(problem)
    }
    val action +: place +: limits = arguments
    val store = new CheckpointStore(
      PhoebeSettings.absolute(place),
      SparkInternals.hadoopConf(conf),
      settings.leaseMs,
      // Nothing is restored here, so the file system's own permissions are enough.
      shared = true
    )
    // A missing or empty directory is an empty store; any other without a marker is refused.
    if (!store.open()) Nil
    else action match {
      case "list" => look(store).map(row(_))
      case "verify" => verified(store)
      case "gc" | "plan" =>
        def limit(i: Int): Option[Long] = limits.lift(i).filter(_.nonEmpty).map(_.toLong)
        val wanted = Limits(
          limit(0).fold(settings.limits.maxAgeMs)(_ * 3600000L),
          limit(1).getOrElse(settings.limits.maxBytes)
        )
        collected(store, wanted, dryRun = action == "plan")
    }
  }

  private def look(store: CheckpointStore): Seq[Stocked] = {
    val catalog = store.catalogue()
    StoreInventory.of(store, catalog, store.living(catalog, System.currentTimeMillis()))
  }

  private def collected(
      store: CheckpointStore,
      limits: Limits,
      dryRun: Boolean
  ): Seq[Map[String, Any]] =
    try {
      GarbageCollection.run(store, limits, dryRun).map { one =>
        row(one.stocked) ++ Map(
          "remove" -> one.remove,
          "reason_code" -> one.reason.code,
          "reason" -> one.reason.message
        )
      }
    } finally store.dropLease()

  /** Reads every byte. A restore does so only during its query. */
  private def verified(store: CheckpointStore): Seq[Map[String, Any]] = {
    val threads = Executors.newFixedThreadPool(Runtime.getRuntime.availableProcessors)
    implicit val pool: ExecutionContext = ExecutionContext.fromExecutor(threads)
    try {
      val looks = look(store).map { one =>
        val packs = one.manifest.toSeq.filter(_ => one.problem.isEmpty).flatMap(_.packs)
        Future.traverse(packs) { pack =>
          Future(PackChecks.verify(one.place, store.fs.getConf, pack.pack))
        }.map(found =>
          row(one.copy(problem = one.problem.orElse(found.flatten.headOption)))
        )
      }
      Await.result(Future.sequence(looks), Duration.Inf)
    } finally threads.shutdown()
  }

  private def row(one: Stocked): Map[String, Any] = {
    val known = one.manifest.toSeq.flatMap { m =>
      Seq(
        "app_id" -> m.appId,
        "app_attempt" -> m.appAttempt,
        "app_name" -> m.appName,
        "user" -> m.user,
        "execution_id" -> m.executionId,
        "spark_version" -> m.sparkVersion,
        "created_at_ms" -> m.createdAtMs,
        "num_maps" -> m.numMaps,
        "num_partitions" -> m.numPartitions,
        "bytes" -> m.bytes,
        "rows" -> m.rows,
        "work_ms" -> m.workMs
      )
    }.toMap[String, Any]
    known ++ Map(
      "path" -> PhoebeSettings.plain(one.place.directory),
      "fingerprint" -> one.place.fingerprint,
      "attempt" -> one.place.attempt,
      "state" -> one.state,
      "problem" -> one.problem.orElse(one.unreadable),
      "stored_bytes" -> one.bytes,
      "written_at_ms" -> one.writtenMs,
      "last_used_at_ms" -> one.lastUsedMs,
      "hits" -> one.hits,
      "in_use" -> (one.users.nonEmpty || one.isBeingWritten)
    )
  }
}
