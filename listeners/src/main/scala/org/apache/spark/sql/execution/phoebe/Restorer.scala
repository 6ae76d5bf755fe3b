package org.apache.spark.sql.execution.phoebe

import java.io.FileNotFoundException
import java.util.concurrent.ConcurrentHashMap

import scala.util.control.NonFatal

import org.apache.hadoop.conf.Configuration

import org.apache.spark.{SPARK_VERSION, SparkContext}
import org.apache.spark.internal.Logging
import org.apache.spark.sql.execution.SQLExecution
import org.apache.spark.sql.execution.phoebe.store._

/**
 * Decides whether a committed checkpoint may stand in for a boundary: it was written by the same
 * Spark with the same codec, and every byte of it is what the index says.
 *
 * The check runs on the executors, in parallel, as one small job of our own while the query is
 * planned: a damaged checkpoint is simply not restored, and the boundary is planned as usual, with
 * everything that adaptive execution does. It costs one read of the checkpoint.
 */
private[phoebe] final class Restorer(runtime: CheckpointRuntime) extends Logging {
  import Restorer._

  private val sc: SparkContext = runtime.phoebe.sparkContext
  private val admitted = new ConcurrentHashMap[CheckpointPlace, Admitted]()
  private val refused = new ConcurrentHashMap[CheckpointPlace, Reason]()
  private val doubted = ConcurrentHashMap.newKeySet[CheckpointPlace]()
  private val locks = new ConcurrentHashMap[CheckpointPlace, Object]()

  /**
   * The first of a fingerprint's checkpoints, newest first, that is whole; Left says what is wrong
   * with the newest. Each is read once in an application.
   */
  def admit(entries: Seq[CatalogEntry]): Either[Reason, Admitted] = {
    val answers = entries.to(LazyList).map(admit)
    answers.collectFirst { case right @ Right(_) => right }.getOrElse(answers.head)
  }

  /** One query looks at a time, or one that is cancelled would take away another's pin. */
  private def admit(entry: CatalogEntry): Either[Reason, Admitted] =
    locks.computeIfAbsent(entry.place, _ => new Object).synchronized(look(entry))

  private def look(entry: CatalogEntry): Either[Reason, Admitted] = {
    val place = entry.place
    if (admitted.containsKey(place)) {
      // A query that read it may have found damage since, and is run again.
      if (Guard("look for a tombstone", false)(runtime.store.fs.exists(place.tombstone))) {
        admitted.remove(place)
        val reason = damaged(place, "a query has found damage in it", 1)
        refused.put(place, reason)
        Left(reason)
      } else Right(admitted.get(place))
    } else if (refused.containsKey(place)) Left(refused.get(place))
    else {
      val began = System.nanoTime()
      val answer =
        try {
          for {
            checkpoint <- read(entry)
            _ <- compatible(checkpoint.manifest)
            _ <- whole(checkpoint)
          } yield Admitted(checkpoint, (System.nanoTime() - began) / 1000000L)
        } catch {
          case e @ (NonFatal(_) | _: LinkageError) =>
            Left(Reason(CheckFailed, s"the checkpoint $place could not be checked: $e"))
        }
      answer match {
        case Right(found) => admitted.put(place, found)
        case Left(reason) =>
          // What stood in the way of a look (a query was cancelled) may not the next time.
          if (reason.code != CheckFailed || !doubted.add(place)) refused.put(place, reason)
          runtime.store.unpin(place)
          logWarning(s"phoebe: not restored, the boundary is computed: $reason")
      }
      answer
    }
  }

  private def read(entry: CatalogEntry): Either[Reason, CommittedCheckpoint] =
    try {
      runtime.store.pin(entry.place)
      runtime.needsStore()
      val checkpoint = runtime.store.readManifest(entry)
      val user = checkpoint.manifest.user
      if (user == sc.sparkUser || runtime.phoebe.settings.sharesCheckpoints) Right(checkpoint)
      else Left(Reason("other_user", s"the checkpoint is another user's ($user)"))
    } catch {
      case _: FileNotFoundException =>
        Left(Reason("checkpoint_gone", s"the checkpoint ${entry.place} was removed"))
      case e: DamagedFileException =>
        StoreFiles.writeTombstone(entry.place, sc.hadoopConfiguration, e.getMessage)
        Left(damaged(entry.place, e.getMessage, 1))
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

  private def whole(checkpoint: CommittedCheckpoint): Either[Reason, Unit] = {
    val place = checkpoint.place
    val packs = checkpoint.manifest.packs.map(_.pack)
    val conf = runtime.hadoopConf
    val slices = math.max(1, math.min(packs.size, 2 * sc.defaultParallelism))
    val problems = CheckpointJobs.internally(sc, tagOf(place)) {
      sc.parallelize(packs, slices)
        .flatMap(pack => Restorer.verify(place, conf.value.value, pack))
        .collect()
    }
    // What an executor does not see may be its mount's fault: a tombstone is for good.
    def isMissing = runtime.store.missing(place, checkpoint.manifest).isDefined
    problems.sortBy(_.isMissing).headOption match {
      case None => Right(())
      case Some(problem) if problem.isMissing && !isMissing =>
        Left(Reason(CheckFailed, s"an executor does not see what the driver does: ${problem.why}"))
      case Some(problem) =>
        StoreFiles.writeTombstone(place, sc.hadoopConfiguration, problem.why)
        Left(damaged(place, problem.why, problems.length))
    }
  }

  /** Nobody waits any more for what is being looked at. */
  def giveUp(entries: Seq[CatalogEntry]): Unit =
    entries.foreach(entry => sc.cancelJobsWithTag(tagOf(entry.place)))

  private def tagOf(place: CheckpointPlace) = s"phoebe-look-${place.attempt}"

  private def damaged(place: CheckpointPlace, problem: String, files: Int): Reason =
    Reason(
      "checkpoint_damaged",
      s"the checkpoint $place is damaged: $problem",
      Map("path" -> place.toString, "files" -> files)
    )
}

private[phoebe] object Restorer {
  private val CheckFailed = "check_failed"

  /** A checkpoint that is whole. @param lookMs how long it took to find that out, in wall time */
  final case class Admitted(checkpoint: CommittedCheckpoint, lookMs: Long)

  /** @param isMissing whether it is that a file is not there */
  final case class Damage(why: String, isMissing: Boolean)

  /**
   * Reads every byte of a pack.
   *
   * @return
   *   what is damaged, if anything
   * @throws java.io.IOException
   *   if the store cannot be read, which says nothing about the checkpoint
   */
  def verify(place: CheckpointPlace, conf: Configuration, pack: Pack): Option[Damage] = {
    val reader = new PackReader(place.directory, conf)
    try {
      reader.verify(pack)
      None
    } catch {
      case e: DamagedFileException => Some(Damage(e.getMessage, isMissing = false))
      case e: FileNotFoundException =>
        Some(Damage(s"a file is missing: ${e.getMessage}", isMissing = true))
    } finally reader.close()
  }
}

private[phoebe] object CheckpointJobs {

  /**
   * Runs jobs of our own: marked, so that they are neither harvested nor part of the user's query. They
   * end with the tags of that, and by `tag`.
   */
  def internally[T](sc: SparkContext, tag: String)(body: => T): T = {
    val changed = Map(
      PhoebeRuntime.InternalProperty -> "true",
      SQLExecution.EXECUTION_ID_KEY -> null,
      SparkContext.SPARK_JOB_DESCRIPTION -> "phoebe: verify a checkpoint"
    )
    val before = changed.keys.map(key => key -> sc.getLocalProperty(key)).toMap
    changed.foreach { case (key, value) => sc.setLocalProperty(key, value) }
    sc.addJobTag(tag)
    try body
    finally {
      sc.removeJobTag(tag)
      before.foreach { case (key, value) => sc.setLocalProperty(key, value) }
    }
  }
}
