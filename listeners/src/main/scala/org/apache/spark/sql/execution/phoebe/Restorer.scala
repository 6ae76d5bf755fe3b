package org.apache.spark.sql.execution.phoebe

import java.util.concurrent.ConcurrentHashMap

import scala.util.control.NonFatal

import org.apache.hadoop.conf.Configuration

import org.apache.spark.{SPARK_VERSION, SparkContext}
import org.apache.spark.internal.Logging
import org.apache.spark.sql.execution.SQLExecution

/**
 * Decides whether a committed checkpoint may stand in for a boundary: it was written by the same
 * Spark with the same codec, and every byte of it is what the index says.
 *
 * The check runs on the executors, in parallel, as one small job of our own while the query is
 * planned: a damaged checkpoint is simply not restored, and the boundary is planned as usual, with
 * everything that adaptive execution does. It costs one read of the checkpoint.
 */
private[phoebe] final class Restorer(runtime: CheckpointRuntime) extends Logging {
  private val sc: SparkContext = runtime.phoebe.sparkContext
  private val verified = ConcurrentHashMap.newKeySet[String]()
  private val refused = new ConcurrentHashMap[String, Reason]()

  /** Right when `checkpoint` is whole; each checkpoint is read once in an application. */
  def admit(checkpoint: CommittedCheckpoint): Either[Reason, Unit] = {
    val key = checkpoint.directory.toString
    if (verified.contains(key)) Right(())
    else if (refused.containsKey(key)) Left(refused.get(key))
    else {
      val answer =
        try {
          for {
            _ <- compatible(checkpoint.manifest)
            _ <- pinned(checkpoint)
            _ <- whole(checkpoint)
          } yield ()
        } catch {
          case e @ (NonFatal(_) | _: LinkageError) =>
            Left(Reason("check_failed", s"the checkpoint $key could not be checked: $e"))
        }
      answer match {
        case Right(_) => verified.add(key)
        case Left(reason) =>
          refused.put(key, reason)
          logWarning(s"phoebe: not restored, the boundary is computed: $reason")
      }
      answer
    }
  }

  private def compatible(manifest: Manifest): Either[Reason, Unit] = {
    val codec = CheckpointAttempt.codec(sc.conf)
    if (manifest.sparkVersion != SPARK_VERSION) {
      Left(Reason(
        "other_spark_version",
        s"written by Spark ${manifest.sparkVersion}, this is $SPARK_VERSION"
      ))
    } else if (manifest.codec != codec) {
      Left(Reason(
        "other_codec",
        s"written with codec ${manifest.codec}, this application uses $codec"
      ))
    } else Right(())
  }

  private def pinned(checkpoint: CommittedCheckpoint): Either[Reason, Unit] =
    if (runtime.store.pin(checkpoint, sc.applicationId)) Right(())
    else Left(Reason("checkpoint_gone", s"the checkpoint ${checkpoint.directory} was removed"))

  private def whole(checkpoint: CommittedCheckpoint): Either[Reason, Unit] = {
    val directory = checkpoint.directory
    val maps = checkpoint.manifest.maps.map(m =>
      MapFile(m.mapIndex, m.mapId, Some(m.indexCrc)) -> m.dataBytes
    )
    val conf = runtime.hadoopConf
    val path = directory.toString
    val slices = math.max(1, math.min(maps.size, 2 * sc.defaultParallelism))
    val problems = CheckpointJobs.internally(sc) {
      sc.parallelize(maps, slices)
        .flatMap { case (map, bytes) =>
          val local: Configuration = conf.value.value
          CheckpointStore.verify(new org.apache.hadoop.fs.Path(path), local, map, bytes)
        }
        .collect()
    }
    problems.headOption match {
      case None => Right(())
      case Some(problem) =>
        CheckpointStore.writeTombstone(directory, sc.hadoopConfiguration, problem)
        Left(
          Reason(
            "checkpoint_damaged",
            s"the checkpoint $path is damaged: $problem",
            Map("path" -> path, "files" -> problems.length)
          )
        )
    }
  }
}

private[phoebe] object CheckpointJobs {

  /** Runs jobs of our own: marked, so that they are neither harvested nor part of the user's query. */
  def internally[T](sc: SparkContext)(body: => T): T = {
    val changed = Map(
      PhoebeRuntime.InternalProperty -> "true",
      SQLExecution.EXECUTION_ID_KEY -> null,
      SparkContext.SPARK_JOB_DESCRIPTION -> "phoebe: verify a checkpoint"
    )
    val before = changed.keys.map(key => key -> sc.getLocalProperty(key)).toMap
    changed.foreach { case (key, value) => sc.setLocalProperty(key, value) }
    try body
    finally before.foreach { case (key, value) => sc.setLocalProperty(key, value) }
  }
}
