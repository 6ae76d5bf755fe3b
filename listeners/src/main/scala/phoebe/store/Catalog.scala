package phoebe.store

import org.apache.hadoop.fs.{FileStatus, FileSystem, Path}
import phoebe.files.HadoopFiles

/** A committed checkpoint that the store's catalogue names; its manifest has not been read yet. */
private[phoebe] final case class CatalogEntry(
    place: CheckpointPlace,
    committedAtMs: Long,
    manifestBytes: Long
)

/**
 * One listing of a store's catalogue: committed and damaged checkpoints, readers and leases.
 *
 * @param readers
 *   by the checkpoint's stem: the owners that have restored it, and when
 * @param leaving
 *   by the checkpoint's stem: the marks of checkpoints that are being removed
 * @param leases
 *   the lease files by owner
 * @param fences
 *   the fences by owner
 * @param temporaries
 *   temporary files, to be renamed to a fence or a mark
 * @param collectedAtMs
 *   when garbage was last collected; 0 if never
 */
private[phoebe] final case class Catalog(
    entries: Seq[CatalogEntry],
    tombstones: Map[String, FileStatus],
    leaving: Map[String, FileStatus],
    readers: Map[String, Map[String, Long]],
    leases: Map[String, FileStatus],
    fences: Map[String, FileStatus],
    temporaries: Seq[FileStatus],
    collectedAtMs: Long
) {

  /** The checkpoints of each fingerprint that may be restored, newest first. */
  def index: Map[String, Seq[CatalogEntry]] = entries
    .filterNot { entry =>
      tombstones.contains(entry.place.stem) || leaving.contains(entry.place.stem)
    }
    .groupBy(_.place.fingerprint)
    .map { case (fingerprint, same) => fingerprint -> same.sortBy(-_.committedAtMs) }
}

private[phoebe] object Catalog {
  import CheckpointPlace._

  private val Owner = s"[0-9a-f]{$OwnerDigits}"
  private val Stem = s"($Fingerprint)-($Attempt)"
  private val Manifest = s"$Stem\\$ManifestSuffix".r
  private val Tombstone = s"($Stem)\\$TombstoneSuffix".r
  private val Leaving = s"($Stem)\\$LeavingSuffix".r
  private val Reader = s"($Stem)\\$ReaderSuffix($Owner)".r
  private val LeaseFile = s"($Owner)\\$LeaseSuffix".r
  private val FenceFile = s"($Owner)\\$FencedSuffix".r
  private val Temporary = s"(?:$Owner\\$FencedSuffix|$Stem\\$LeavingSuffix)\\.[0-9a-f]{16}\\.tmp".r

  /** The owner in the name of a `.reader-<owner>` file. */
  def readerOf(name: String): Option[String] =
    Some(name).collect { case Reader(_, _, _, owner) => owner }

  /** Empty where there is no store yet. */
  def read(fs: FileSystem, root: Path): Catalog = {
    val listed = HadoopFiles.list(fs, catalog(root)).filter(_.isFile)
    def named[T](pick: PartialFunction[(String, FileStatus), T]): Seq[T] =
      listed.map(status => status.getPath.getName -> status).collect(pick)
    Catalog(
      named { case (Manifest(fingerprint, attempt), status) =>
        val place = CheckpointPlace(root.toString, fingerprint, attempt)
        CatalogEntry(place, status.getModificationTime, status.getLen)
      },
      named { case (Tombstone(stem, _, _), status) => stem -> status }.toMap,
      named { case (Leaving(stem, _, _), status) => stem -> status }.toMap,
      named { case (Reader(stem, _, _, owner), status) =>
        (stem, owner, status.getModificationTime)
      }.groupBy(_._1).map { case (stem, all) => stem -> all.map(r => r._2 -> r._3).toMap },
      named { case (LeaseFile(owner), status) => owner -> status }.toMap,
      named { case (FenceFile(owner), status) => owner -> status }.toMap,
      named { case (Temporary(_, _), status) => status },
      named { case (CollectedName, status) => status.getModificationTime }.headOption.getOrElse(0L)
    )
  }
}
