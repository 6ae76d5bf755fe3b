/*
 * The identity of a checkpoint's input files, and its two checks: before the commit, and before each
 * restore. It is defined only here.
 *
 * A fingerprint names its inputs by Spark's listing: path, length and modification time. That costs
 * nothing, but it is not enough: files may be rewritten between a listing and a query, with the same
 * length and within one tick of the clock. So the files are checked before a commit, and further
 * attributes from the store (an ETag, a file's id, its change time) go into the manifest. They are
 * checked again before a restore, and everything must be the same then.
 */
package phoebe.fingerprint

import java.io.{FileNotFoundException, IOException}
import java.nio.file.{Files, NoSuchFileException, NotDirectoryException, Paths}
import java.nio.file.attribute.FileTime
import java.util.concurrent.{
  Callable,
  CancellationException,
  ConcurrentHashMap,
  Executors,
  TimeUnit
}
import java.util.concurrent.atomic.AtomicInteger

import scala.jdk.CollectionConverters._
import scala.util.Try
import scala.util.control.NonFatal

import org.apache.hadoop.conf.Configuration
import org.apache.hadoop.fs.{EtagSource, FileStatus, Path}
import org.apache.hadoop.hdfs.protocol.HdfsFileStatus

import org.apache.spark.sql.classic.SparkSession
import org.apache.spark.sql.execution.phoebe.compat.SparkInternals
import phoebe.Reason

/**
 * Checks the inputs of one fingerprint. It lives as long as the checkpoint that waits for it, so it
 * refers to the listings but not to the plan. Otherwise the plan's shuffles would never be cleaned up.
 *
 * @param plannedMs
 *   a time before the query read anything, in ms since the epoch
 */
final class Inputs private[fingerprint] (
    session: SparkSession,
    listings: Seq[Listing],
    plannedMs: Long
) {
  // The index of a listing must stay alive, so that `Listing.current` can recognise it.
  private val held = listings.map(listing => listing -> listing.source())

  /**
   * The identity of the inputs, for the manifest. Left if they may not be those that were read: a file
   * differs from its listing, or was changed so late that a task may have read an earlier state.
   *
   * @param ran
   *   the listings of scans that list again when they run
   */
  def beforeCommit(ran: Seq[RanScan]): Either[Reason, String] = {
    val planned = held.iterator.map(_._1.hash).toSet
    ran.find(scan => !planned(scan.hash)) match {
      case Some(other) => Left(Inputs.changed(other.root))
      case None =>
        look(new Looks(Inputs.hadoop(session), Inputs.CommitMs, whole = false)).flatMap { seen =>
          val latest = seen.flatMap(_.latest).maxByOption(_.settledMs)
          latest.filter(_.settledMs > plannedMs).map(file => Inputs.unsettled(file.path))
            .toLeft(Inputs.identity(seen))
        }
    }
  }

  /** The identity of the inputs now; Left if they are not those that were listed for this query. */
  def beforeRestore(looks: Looks): Either[Reason, String] = look(looks).map(Inputs.identity)

  /** Why the inputs are not any more those that a manifest identifies. Reads the store. */
  def changedSince(identity: String, timeoutMs: Long): Option[Reason] =
    beforeRestore(Inputs.looksBeforeRestores(session, timeoutMs)) match {
      case Left(reason) => Some(reason)
      case Right(now) => if (now == identity) None else Some(Inputs.replaced)
    }

  private def look(looks: Looks) = looks(held.map(_._1))
}

object Inputs {

  /** The time-out of the check before a commit; no query waits for it. */
  private val CommitMs = 120000L

  /** For all checks before the restores of one planning pass: each listing is checked once. */
  private[phoebe] def looksBeforeRestores(session: SparkSession, timeoutMs: Long): Looks =
    new Looks(hadoop(session), timeoutMs, whole = true)

  private def hadoop(session: SparkSession) = session.sessionState.newHadoopConf()

  private def identity(seen: Seq[Sighting]): String =
    new Digest("inputs").addAll(seen.map(_.identity).sorted).hex()

  val Changed = "input_changed"

  private[fingerprint] def changed(path: String): Reason = Reason(
    Changed,
    s"$path is not what it was when it was listed",
    Map("path" -> path)
  )

  private def unsettled(path: String): Reason = Reason(
    "input_unsettled",
    s"$path was changed after the query began, or right before: which state of it was read is not known",
    Map("path" -> path)
  )

  /** The paths, lengths and times are those of the fingerprint, but the files are not the same. */
  val replaced: Reason = Reason(
    Changed,
    "the inputs were written anew since, or given other rights: the checkpoint may be of older bytes"
  )

  private[phoebe] def unseen(why: String): Reason =
    Reason("input_unseen", s"the inputs could not be looked at: $why", Map("error" -> why))
}

/**
 * One file as a check found it.
 *
 * @param told
 *   all attributes of the file's state from its store
 * @param settledMs
 *   a read after this time (ms since the epoch) saw the state found here
 */
private[fingerprint] final case class SeenFile(path: String, told: String, settledMs: Long)

/**
 * One listing as a check found it.
 *
 * @param latest
 *   the file that was changed last; None if its files never change
 */
private[fingerprint] final case class Sighting(identity: String, latest: Option[SeenFile])

/**
 * Checks the files of listings, each listing once for all callers; several directories at a time, on
 * threads that end with the check.
 *
 * @param whole
 *   whether a new file in a listed directory counts as a change too. (A scan of this plan would not read
 *   it, unless it lists again.)
 */
final class Looks private[fingerprint] (conf: Configuration, timeoutMs: Long, whole: Boolean) {
  import Looks._

  private val known = new ConcurrentHashMap[Listing, Either[Reason, Sighting]]
  private val deadline = System.nanoTime() + TimeUnit.MILLISECONDS.toNanos(timeoutMs)

  private[fingerprint] def apply(listings: Seq[Listing]): Either[Reason, Seq[Sighting]] = {
    val answers = listings.map(known.computeIfAbsent(_, look))
    answers.collectFirst { case Left(reason) => Left(reason) }
      .getOrElse(Right(answers.collect { case Right(seen) => seen }))
  }

  private def look(listing: Listing): Either[Reason, Sighting] =
    if (!listing.current()) Left(Inputs.changed(listing.root))
    else {
      try {
        val found = atOnce(places(listing).flatMap { case (place, files) =>
          if (isLocal(place)) onDisk(place, files, listing) else Seq(inStore(place, files, listing))
        }).flatten
        found.collectFirst { case Left(path) => Left(Inputs.changed(path)) }.getOrElse {
          val files = found.collect { case Right(file) => file }.sortBy(_.path)
          val digest = new Digest("sighting").add(listing.hash)
          files.foreach(file => digest.add(file.path).add(file.told))
          val latest = if (listing.immutable) None else files.maxByOption(_.settledMs)
          Right(Sighting(digest.hex(), latest))
        }
      } catch {
        case _: CancellationException => Left(Inputs.unseen(s"no answer in $timeoutMs ms"))
        case e @ (NonFatal(_) | _: LinkageError) =>
          Left(Inputs.unseen(Option(e.getCause).getOrElse(e).toString))
      }
    }

  /** The paths to list: directories, and files that are roots themselves (a path, a glob's match). */
  private def places(listing: Listing): Seq[(Path, Array[FileStatus])] =
    listing.files.groupBy { file =>
      val path = file.getPath
      if (listing.roots(path.toString)) path else path.getParent
    }.toSeq

  /** Runs tasks in parallel until the deadline. A file system that never answers blocks its thread. */
  private def atOnce(tasks: Seq[Task]): Seq[Seq[Found]] =
    if (tasks.isEmpty) Nil
    else if (stuck.get() > MostStuck)
      throw new IOException("earlier looks still wait for an answer")
    else {
      val threads = Executors.newFixedThreadPool(
        math.min(tasks.size, Threads),
        SparkInternals.threadFactory("phoebe-inputs")
      )
      try {
        val left = math.max(1L, deadline - System.nanoTime())
        threads.invokeAll(tasks.asJava, left, TimeUnit.NANOSECONDS).asScala.map(_.get()).toSeq
      } finally {
        threads.shutdownNow()
        tasks.foreach(_.leave())
      }
    }

  private def task(body: => Seq[Found]): Task = new Task(() => body)

  /** Uses the call that Spark lists with: stores give more precise times in some calls than in others. */
  private def inStore(place: Path, files: Array[FileStatus], listing: Listing): Task = task {
    try {
      val all = place.getFileSystem(conf).listStatus(place)
      val now = all.iterator.map(s => s.getPath.getName -> s).toMap
      val found = files.toSeq.map { was =>
        now.get(was.getPath.getName)
          .filter(s => isSame(was, s.getLen, s.getModificationTime, listing))
          .map(ofStore(was.getPath, _)).toRight(was.getPath.toString)
      }
      if (!counts(place, listing)) found
      else {
        val listed = files.iterator.map(_.getPath.getName).toSet
        found ++ all.iterator.filter(s => s.isFile && s.getLen > 0).map(_.getPath.getName)
          .filterNot(name => listed(name) || SparkInternals.isHiddenFile(name))
          .map(name => Left(new Path(place, name).toString))
      }
    } catch { case _: FileNotFoundException => Seq(Left(place.toString)) }
  }

  /** Asks the file system itself: Hadoop's statuses of local files have fewer attributes. */
  private def onDisk(place: Path, files: Array[FileStatus], listing: Listing): Seq[Task] = {
    def stats(some: Array[FileStatus]) = task {
      some.toSeq.map { was =>
        val path = was.getPath
        try {
          val (length, modifiedMs, file) = ofDisk(path, listing.isOnLocalDisk)
          if (isSame(was, length, modifiedMs, listing)) Right(file) else Left(path.toString)
        } catch {
          case _: NoSuchFileException | _: FileNotFoundException => Left(path.toString)
        }
      }
    }
    def strangers = task {
      val listed = files.iterator.map(_.getPath.getName).toSet
      try {
        val directory = Files.newDirectoryStream(onThisHost(place))
        try {
          directory.asScala.iterator
            .filterNot { p =>
              val name = p.getFileName.toString
              listed(name) || SparkInternals.isHiddenFile(name)
            }
            .filter(p => Files.isRegularFile(p) && Files.size(p) > 0)
            .map(p => Left(p.toString)).take(1).toSeq
        } finally directory.close()
      } catch {
        case _: NoSuchFileException | _: NotDirectoryException => Seq(Left(place.toString))
      }
    }
    val all = files.grouped(FilesAtOnce).map(stats(_)).toSeq
    if (counts(place, listing)) strangers +: all else all
  }

  private def counts(place: Path, listing: Listing): Boolean =
    whole && listing.isWhole && !listing.files.exists(_.getPath == place)

  private def isSame(was: FileStatus, length: Long, modifiedMs: Long, listing: Listing) =
    length == was.getLen && (listing.immutable || modifiedMs == was.getModificationTime)
}

private[fingerprint] object Looks {
  private type Found = Either[String, SeenFile]

  /** A part of a check, for one thread. */
  private final class Task(body: () => Seq[Found]) extends Callable[Seq[Found]] {
    private var runs = false
    private var isLeft = false

    override def call(): Seq[Found] = {
      synchronized { runs = true }
      try body()
      finally synchronized {
          runs = false
          if (isLeft) stuck.decrementAndGet(): Unit
        }
    }

    /** The check has ended without it. */
    def leave(): Unit = synchronized {
      if (runs) {
        isLeft = true
        stuck.incrementAndGet(): Unit
      }
    }
  }

  private val Threads = 16
  private val FilesAtOnce = 4096

  /** The number of this JVM's threads that still wait for a file system after their check has ended. */
  private val stuck = new AtomicInteger
  private val MostStuck = 8 * Threads

  /** The longest tick of the kernel's clock for file times. */
  private val TickMs = 10L

  /** Some file systems count seconds (FAT two seconds); a time without a fraction may be from these. */
  private val CoarseTickMs = 2000L

  /** Object stores count seconds. */
  private val SecondMs = 1000L

  /** By how much the clocks of a store and of the driver may differ. */
  private val SkewMs = 1000L

  private def isLocal(path: Path): Boolean = path.toUri.getScheme == "file"

  private def onThisHost(path: Path) = Paths.get(path.toUri.getPath)

  /** File systems whose times are this machine's. Others (NFS, FUSE) have a clock of their own. */
  private val onDisks =
    Set("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "f2fs", "apfs")

  def isOnDisk(path: Path): Boolean =
    isLocal(path) && Try(Files.getFileStore(onThisHost(path)).`type`).toOption.exists(onDisks)

  /**
   * Any change of a file's bytes sets its change time, which cannot be set back, and another file under
   * its name has another inode. Both also change when a file is copied, restored from a backup or given
   * other permissions. That only costs a computation.
   *
   * @return
   *   its length in bytes, its modification time in ms, and the found state
   */
  private def ofDisk(path: Path, isOnDisk: Boolean): (Long, Long, SeenFile) = {
    val file = onThisHost(path)
    val attributes =
      try Files.readAttributes(file, "unix:size,lastModifiedTime,ctime,ino").asScala
      catch {
        case _: UnsupportedOperationException | _: IllegalArgumentException =>
          Files.readAttributes(file, "size,lastModifiedTime").asScala
      }
    val length = attributes("size").asInstanceOf[Long]
    val modified = attributes("lastModifiedTime").asInstanceOf[FileTime]
    val changed = attributes.get("ctime").map(_.asInstanceOf[FileTime]).getOrElse(modified)
    val ns = changed.to(TimeUnit.NANOSECONDS)
    val tickMs = if (ns % 1000000000L == 0) CoarseTickMs else TickMs
    val told = s"$length $modified $changed ${attributes.getOrElse("ino", "")}"
    val settledMs = changed.toMillis + 1 + tickMs + (if (isOnDisk) 0 else SkewMs)
    (length, modified.toMillis, SeenFile(path.toString, told, settledMs))
  }

  private def ofStore(path: Path, status: FileStatus): SeenFile = {
    val told = Seq(
      status.getLen.toString,
      status.getModificationTime.toString,
      status match {
        case s: EtagSource => s"etag ${s.getEtag}"
        case _ => ""
      },
      status match {
        case s: HdfsFileStatus => s"id ${s.getFileId}"
        case _ => ""
      },
      // S3A's own class is not on our class path.
      Try(status.getClass.getMethod("getVersionId").invoke(status)).fold(
        _ => "",
        v => s"version $v"
      )
    )
    val settledMs = status.getModificationTime + SecondMs + SkewMs
    SeenFile(path.toString, told.mkString(" "), settledMs)
  }
}
