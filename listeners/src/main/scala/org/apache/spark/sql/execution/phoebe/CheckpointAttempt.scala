package org.apache.spark.sql.execution.phoebe

import scala.jdk.CollectionConverters._
import scala.util.control.NonFatal

import org.apache.hadoop.fs.Path

import org.apache.spark.{MapOutputTrackerMaster, SPARK_VERSION, ShuffleDependency, SparkEnv}
import org.apache.spark.internal.Logging
import org.apache.spark.io.CompressionCodec
import org.apache.spark.scheduler.MapStatus
import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.util.Utils

/**
 * One attempt to turn a shuffle into a checkpoint: its directory, its commit, and what follows the
 * commit (freeing). Runs on the driver, after the map stage and before its output is announced, so
 * nobody reads the shuffle while its locations change.
 */
private[phoebe] final class CheckpointAttempt(
    exchange: CheckpointExchangeExec,
    runtime: CheckpointRuntime
) extends Logging {

  val directory: Path = runtime.store.newAttempt(exchange.fingerprint)

  /**
   * Commits if every winning map output was copied whole and the inputs are still those that were
   * planned; frees local files then. Anything else abandons the checkpoint, not the query.
   *
   * @return bytes freed on local disks
   */
  def commit(
      dependency: ShuffleDependency[Int, InternalRow, InternalRow],
      reports: CopyReports
  ): Long = {
    val statuses = mapStatuses(dependency.shuffleId)
    val committed =
      try {
        for {
          manifest <- manifestOf(dependency, statuses, reports)
          _ <- runtime.inputsUnchanged(exchange.executionId, exchange.fingerprint)
        } yield {
          runtime.store.commit(directory, manifest)
          manifest
        }
      } catch {
        case NonFatal(e) =>
          Left(Reason(
            "commit_failed",
            s"the checkpoint could not be committed: $e",
            Map("error" -> e.toString)
          ))
      }
    committed match {
      case Left(reason) =>
        logWarning(s"phoebe: checkpoint abandoned, the query goes on: $reason")
        discard()
        tell("abandoned", "reason" -> reason.toJson)
        0L
      case Right(manifest) =>
        runtime.committed(dependency.shuffleId, directory)
        val copyMs = reports.value.values.asScala.map(_.copyNs).sum / 1000000
        tell(
          "committed",
          "bytes" -> manifest.bytes,
          "rows" -> manifest.rows,
          "map_count" -> manifest.numMaps,
          "partitions" -> manifest.numPartitions,
          "copy_ms" -> copyMs
        )
        val freed = ShuffleFreeing.own(dependency, statuses) + ShuffleFreeing.upstream(exchange)
        tell("freed", "freed_bytes" -> freed)
        logInfo(
          s"phoebe: checkpoint of ${manifest.bytes} bytes committed to $directory, $freed bytes freed"
        )
        freed
    }
  }

  private def tell(event: String, fields: (String, Any)*): Unit =
    runtime.tell(exchange.executionId, exchange.fingerprint, event, Some(directory), fields: _*)

  /** Removes whatever this attempt wrote. */
  def discard(): Unit = runtime.store.remove(directory)

  private def mapStatuses(shuffleId: Int): Array[MapStatus] = {
    val tracker = SparkEnv.get.mapOutputTracker.asInstanceOf[MapOutputTrackerMaster]
    tracker.shuffleStatuses.get(shuffleId).map(_.withMapStatuses(_.clone())).getOrElse(Array.empty)
  }

  /** The winners that the map output tracker names, each with its copy's report. */
  private def manifestOf(
      dependency: ShuffleDependency[Int, InternalRow, InternalRow],
      statuses: Array[MapStatus],
      reports: CopyReports
  ): Either[Reason, Manifest] = {
    val numMaps = dependency.rdd.getNumPartitions
    val winners =
      statuses.toSeq.map(status => Option(status).flatMap(s => Option(reports.value.get(s.mapId))))
    val lost = statuses.count(_ == null)
    val failure = winners.flatten.find(_.error != null)
    val blocks = numMaps.toLong * dependency.partitioner.numPartitions
    if (blocks > CheckpointAttempt.MaxBlocks) {
      Left(
        Reason(
          "too_many_blocks",
          s"$numMaps map outputs of ${dependency.partitioner.numPartitions} partitions: too fine",
          Map("blocks" -> blocks)
        )
      )
    } else if (statuses.length != numMaps || lost > 0) {
      Left(Reason(
        "map_output_lost",
        s"$lost of $numMaps map outputs were lost before the commit",
        Map("lost" -> lost)
      ))
    } else if (failure.isDefined) {
      val what = failure.get
      Left(Reason(
        "copy_failed",
        s"copying map output ${what.mapIndex} failed: ${what.error}",
        Map("map_index" -> what.mapIndex)
      ))
    } else if (winners.exists(_.isEmpty)) {
      Left(Reason(
        "copy_missing",
        s"${winners.count(_.isEmpty)} of $numMaps map outputs have no copy"
      ))
    } else {
      val maps = winners.flatten.map { r =>
        ManifestMap(
          r.mapIndex,
          r.mapId,
          CheckpointStore.dataName(r.mapIndex, r.mapId),
          r.dataBytes,
          r.indexCrc,
          r.rows,
          r.sizes
        )
      }
      val sc = exchange.session.sparkContext
      Right(
        Manifest(
          format = Manifest.Format,
          fingerprint = exchange.fingerprint,
          appId = sc.applicationId,
          appAttempt = sc.applicationAttemptId.getOrElse(""),
          appName = sc.appName,
          user = sc.sparkUser,
          executionId = exchange.executionId,
          sparkVersion = SPARK_VERSION,
          pluginVersion = PhoebeRuntime.pluginVersion,
          createdAtMs = System.currentTimeMillis(),
          host = Utils.localHostName(),
          pid = ProcessHandle.current().pid(),
          codec = CheckpointAttempt.codec(sc.conf),
          numMaps = numMaps,
          numPartitions = dependency.partitioner.numPartitions,
          bytes = maps.map(_.dataBytes).sum,
          rows = maps.map(_.rows).sum,
          dataSizeBytes = winners.flatten.map(_.dataSizeBytes).sum,
          maps = maps
        )
      )
    }
  }
}

private[phoebe] object CheckpointAttempt {
  import org.apache.spark.SparkConf
  import org.apache.spark.internal.config.SHUFFLE_COMPRESS

  /** A manifest holds a byte for each block (map output times partition), on the driver. */
  val MaxBlocks: Long = 16L << 20

  /** How the stored bytes are compressed: they are read back with this application's codec. */
  def codec(conf: SparkConf): String =
    if (conf.get(SHUFFLE_COMPRESS)) CompressionCodec.getCodecName(conf) else "none"
}
