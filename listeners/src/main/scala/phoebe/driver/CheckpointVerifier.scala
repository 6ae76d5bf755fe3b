package phoebe.driver

import java.io.FileNotFoundException
import java.util.concurrent.ConcurrentHashMap
import java.util.concurrent.atomic.AtomicLong

import scala.util.control.NonFatal

import org.apache.hadoop.fs.Path

import org.apache.spark.{SPARK_VERSION, SparkContext}
import org.apache.spark.broadcast.Broadcast
import org.apache.spark.internal.Logging
import org.apache.spark.sql.execution.phoebe.compat.SparkInternals
import phoebe.{FailSafe, Reason}
import phoebe.files.{DamagedFileException, HadoopFiles}
import phoebe.settings.PhoebeSettings
import phoebe.store.{
  CatalogEntry,
  CheckpointPlace,
  CommittedCheckpoint,
  Manifest,
  NotOwnException,
  PackChecks,
  PackReader,
  Tombstone
}

/**
 * Decides whether a committed checkpoint may be restored for a boundary: it was written by the same
 * Spark with the same codec, its files have their lengths, and each ends with its own footer.
 *
 * The query's planning waits for this check, so it makes a few requests, however many bytes there are.
 * The bytes are verified chunk by chunk when they are read. A checkpoint found damaged here is not
 * restored, and its boundary is planned as usual, by adaptive execution.
 */
final class CheckpointVerifier(runtime: CheckpointRuntime) extends Logging {
  import CheckpointVerifier._

  private val sc: SparkContext = runtime.phoebe.sparkContext
  private val admitted = new ConcurrentHashMap[CheckpointPlace, Admitted]()
  private val refused = new ConcurrentHashMap[CheckpointPlace, Reason]()
  private val doubted = ConcurrentHashMap.newKeySet[CheckpointPlace]()
  private val locks = new ConcurrentHashMap[CheckpointPlace, Object]()

  /**
   * The first good one of a fingerprint's checkpoints, newest first. Left says what is wrong with the
   * newest. Each is checked once in an application.
   *
   * @param everyByte
   *   read a small checkpoint in full and keep its bytes for its readers: damage found later could not
   *   be repaired by recomputing a part
   */
  def admit(entries: Seq[CatalogEntry], everyByte: Boolean): Either[Reason, Admitted] = {
    val answers = entries.to(LazyList).map(admit(_, everyByte))
    answers.collectFirst { case right @ Right(_) => right }.getOrElse(answers.head)
  }

  /** One check per checkpoint at a time; a cancelled query would otherwise remove another's pin. */
  private def admit(entry: CatalogEntry, everyByte: Boolean): Either[Reason, Admitted] =
    Option(refused.get(entry.place)).map(Left(_)).getOrElse {
      locks.computeIfAbsent(entry.place, _ => new Object).synchronized(look(entry, everyByte))
    }

  private def look(entry: CatalogEntry, everyByte: Boolean): Either[Reason, Admitted] = {
    val place = entry.place
    if (admitted.containsKey(place)) {
      // A query that read it may have found damage since, and now runs again.
      if (FailSafe("look for a tombstone", false)(runtime.store.fs.exists(place.tombstone))) {
        // Queries that read its held bytes go on. The broadcast is removed when they have ended.
        release(admitted.remove(place).checkpoint)
        val reason = damaged(place, "a query has found damage in it")
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
            held <- whole(checkpoint, everyByte)
          } yield Admitted(checkpoint.copy(held = held), (System.nanoTime() - began) / 1000000L)
        } catch {
          case e @ (NonFatal(_) | _: LinkageError) =>
            Left(Reason(CheckFailed, s"the checkpoint $place could not be checked: $e"))
        }
      answer match {
        // It came too late: the check had timed out.
        case Right(late) if refused.containsKey(place) =>
          late.checkpoint.held.foreach(_.destroy())
          release(late.checkpoint)
          runtime.store.unpin(place)
        case Right(found) => admitted.put(place, found)
        case Left(reason) =>
          // A check that failed once (a query was cancelled) is tried again once.
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
      case e: NotOwnException => Left(Reason("other_user", e.getMessage))
      case e: DamagedFileException =>
        Tombstone.write(entry.place, sc.hadoopConfiguration, e.getMessage)
        Left(damaged(entry.place, e.getMessage))
    }

  private def compatible(manifest: Manifest): Either[Reason, Unit] = {
    val codec = SparkInternals.shuffleCodec(SparkInternals.conf(sc))
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

  private def whole(
      checkpoint: CommittedCheckpoint,
      everyByte: Boolean
  ): Either[Reason, Option[Broadcast[PackReader.PackBytes]]] = {
    val place = checkpoint.place
    val packs = checkpoint.manifest.packs.map(_.pack)
    val readsAll = everyByte && checkpoint.manifest.bytes <= SmallBytes
    // One listing has the lengths of all packs. A mount may be stale for a moment, and a tombstone
    // is permanent: so a missing file is checked twice.
    def missing = runtime.store.missing(place, checkpoint.manifest)
    val absent = missing.flatMap(_ => missing)
    val timeoutMs = PhoebeSettings.readTimeoutMs
    val held = if (absent.isEmpty && readsAll) hold(checkpoint) else None
    val problem = absent.orElse {
      if (held.isDefined) None
      else if (readsAll)
        PackChecks.all(place, sc.hadoopConfiguration, packs, timeoutMs)(_.verify(_))
      else PackChecks.footers(place, sc.hadoopConfiguration, packs, timeoutMs)
    }
    problem match {
      case None => Right(held)
      case Some(why) =>
        Tombstone.write(place, sc.hadoopConfiguration, why)
        Left(damaged(place, why))
    }
  }

  /** The bytes that may still be held. */
  private val mayHold = new AtomicLong(runtime.phoebe.settings.heldBytes)

  /**
   * Holds a checkpoint's bytes for its readers, as a broadcast, while there is room: its later loss
   * could fail the query. None also if it is damaged: the next read of the store finds out what is
   * wrong.
   */
  private def hold(checkpoint: CommittedCheckpoint): Option[Broadcast[PackReader.PackBytes]] = {
    val bytes = storedBytes(checkpoint)
    if (mayHold.addAndGet(-bytes) < 0) {
      mayHold.addAndGet(bytes)
      None
    } else {
      try Some(sc.broadcast(verified(checkpoint)))
      catch {
        case NonFatal(e) =>
          logInfo(s"phoebe: ${checkpoint.place} is not held, its readers ask the store: $e")
          mayHold.addAndGet(bytes)
          None
      }
    }
  }

  /** All packs' bytes, read once and checked. */
  private def verified(checkpoint: CommittedCheckpoint): PackReader.PackBytes = {
    val directory = checkpoint.place.directory
    val packs = checkpoint.manifest.packs
    val timeoutMs = PhoebeSettings.readTimeoutMs
    val read =
      SparkInternals.inParallel(packs, "phoebe-packs", math.min(packs.size, PackChecks.Threads)) {
        pack =>
          val path = new Path(directory, pack.file)
          pack.file -> HadoopFiles.readRange(
            runtime.store.fs,
            path,
            pack.bytes,
            0,
            pack.bytes.toInt
          )
      }.toMap
    val reader = new PackReader(directory, sc.hadoopConfiguration, read, timeoutMs)
    try packs.foreach(pack => reader.verify(pack.pack))
    finally reader.close()
    read
  }

  /** Returns the room of held bytes: they are gone, or will be when their readers have ended. */
  private def release(checkpoint: CommittedCheckpoint): Unit =
    if (checkpoint.held.isDefined) mayHold.addAndGet(storedBytes(checkpoint)): Unit

  private def storedBytes(checkpoint: CommittedCheckpoint) =
    checkpoint.manifest.packs.map(_.bytes).sum

  /** A query could not read this checkpoint: no later query of this application restores it. */
  def refuse(place: CheckpointPlace, reason: Reason): Unit = refused.put(place, reason): Unit

  /** These checks timed out: their checkpoints are not tried again in this application. */
  def giveUp(entries: Seq[CatalogEntry], reason: Reason): Unit =
    entries.filterNot(entry => admitted.containsKey(entry.place))
      .foreach(entry => refused.putIfAbsent(entry.place, reason))

  private def damaged(place: CheckpointPlace, problem: String): Reason =
    Reason(
      "checkpoint_damaged",
      s"the checkpoint $place is damaged: $problem",
      Map("path" -> place.toString)
    )
}

object CheckpointVerifier {
  private val CheckFailed = "check_failed"

  /** Reading this much takes less time than planning a query over as many bytes. */
  private val SmallBytes = 64L << 20

  /** A checkpoint that may be restored. @param lookMs the wall time of its check, in ms */
  final case class Admitted(checkpoint: CommittedCheckpoint, lookMs: Long)
}
