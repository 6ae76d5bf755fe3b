package org.apache.spark.sql.execution.phoebe.store

import org.apache.hadoop.fs.{FileStatus, FileSystem, Path}

/** A committed checkpoint that the store's catalogue names; its manifest has not been read yet. */
private[phoebe] final case class CatalogEntry(
    place: CheckpointPlace,
    committedAtMs: Long,
    manifestBytes: Long
)

/**
 * One listing of a store's catalogue: all that is committed, damaged, read, and who is there.
 *
 * @param readers
 *   who has restored a checkpoint, and when, by the checkpoint's stem: owners of leases
 * @param leases
 *   the lease files by owner
 * @param collectedAtMs
 *   when garbage was last collected; 0: never
 */
private[phoebe] final case class Catalog(
    entries: Seq[CatalogEntry],
    tombstones: Map[String, FileStatus],
    readers: Map[String, Map[String, Long]],
    leases: Map[String, FileStatus],
    collectedAtMs: Long
) {

  /** The checkpoints of each fingerprint that may be restored, newest first. */
  def index: Map[String, Seq[CatalogEntry]] = entries
    .filterNot(entry => tombstones.contains(entry.place.stem))
    .groupBy(_.place.fingerprint)
    .map { case (fingerprint, same) => fingerprint -> same.sortBy(-_.committedAtMs) }
}

private[phoebe] object Catalog {
  import CheckpointPlace._

  private val Stem = "([0-9a-f]+)-([0-9a-f]{32})"
  private val Manifest = s"$Stem\\$ManifestSuffix".r
  private val Tombstone = s"($Stem)\\$TombstoneSuffix".r
  private val Reader = s"($Stem)\\$ReaderSuffix([0-9a-f]+)".r
  private val LeaseFile = s"([0-9a-f]{32})\\$LeaseSuffix".r

  /** Empty where there is no store yet. */
  def read(fs: FileSystem, root: Path): Catalog = {
    val listed = StoreFiles.list(fs, catalog(root))
    def named[T](pick: PartialFunction[(String, FileStatus), T]): Seq[T] =
      listed.map(status => status.getPath.getName -> status).collect(pick)
    Catalog(
      named { case (Manifest(fingerprint, attempt), status) =>
        val place = CheckpointPlace(root.toString, fingerprint, attempt)
        CatalogEntry(place, status.getModificationTime, status.getLen)
      },
      named { case (Tombstone(stem, _, _), status) => stem -> status }.toMap,
      named { case (Reader(stem, _, _, owner), status) =>
        (stem, owner, status.getModificationTime)
      }.groupBy(_._1).map { case (stem, all) => stem -> all.map(r => r._2 -> r._3).toMap },
      named { case (LeaseFile(owner), status) => owner -> status }.toMap,
      named { case (CollectedName, status) => status.getModificationTime }.headOption.getOrElse(0L)
    )
  }
}
