package phoebe.store

import java.io.{FileNotFoundException, IOException}

import org.apache.hadoop.fs.{FileStatus, FileSystem, Path}

import phoebe.{Json, Reason}
import phoebe.files.HadoopFiles

/**
 * One attempt in a store, as far as it is known without reading its data.
 *
 * @param manifest
 *   None if there is no manifest (it was never committed) or it cannot be read
 * @param problem
 *   why it will never be restored; None if it is good, or if it has no manifest
 * @param unreadable
 *   why its manifest could not be read now, although it may be good
 * @param bytes
 *   bytes of its files in the store
 * @param writtenMs
 *   when it was committed, or when its last file was written
 * @param lastUsedMs
 *   when it was committed or last restored
 * @param hits
 *   applications that have restored it
 * @param users
 *   living applications that may still need it: its writer, and those that restored it
 */
private[phoebe] final case class Stocked(
    place: CheckpointPlace,
    manifest: Option[Manifest],
    problem: Option[String],
    unreadable: Option[String],
    bytes: Long,
    writtenMs: Long,
    lastUsedMs: Long,
    hits: Int,
    users: Set[String],
    isBeingWritten: Boolean
) {
  def state: String =
    if (problem.isDefined) "damaged"
    else if (unreadable.isDefined) "unreadable"
    else if (manifest.isDefined) "committed"
    else "uncommitted"
}

/** Everything that a store holds, committed or not. */
private[phoebe] object StoreInventory {
  import HadoopFiles.list

  /** Missing files and tombstones make a checkpoint damaged; its bytes are not read. */
  def of(store: CheckpointStore, catalog: Catalog, alive: LiveOwners): Seq[Stocked] = {
    val fs = store.fs
    val committed = catalog.entries.map(entry => entry.place -> entry).toMap
    val onDisk = attempts(store).toMap
    (committed.keySet ++ onDisk.keySet).toSeq.sortBy(_.stem).map { place =>
      store.keepAlive()
      val files = onDisk.getOrElse(place, Nil)
      val readers = catalog.readers.getOrElse(place.stem, Map.empty)
      val entry = committed.get(place)
      val read = entry.map { found =>
        try Right(store.readManifest(found, catalog).manifest)
        catch { case e: IOException => Left(e) }
      }
      val manifest = read.flatMap(_.toOption)
      val failure = read.flatMap(_.left.toOption)
      val writtenMs = entry.map(_.committedAtMs)
        .orElse(files.map(_.getModificationTime).maxOption)
        .getOrElse(modified(fs, place.directory))
      Stocked(
        place,
        manifest,
        catalog.tombstones.get(place.stem).map(why(fs, _))
          .orElse(failure.filter(HadoopFiles.isDamage).map(_.getMessage))
          .orElse(catalog.leaving.get(place.stem).map(_ => "its removal was begun"))
          .orElse(manifest.flatMap(missing(_, files))),
        failure.filterNot(HadoopFiles.isDamage).map(_.toString),
        files.map(_.getLen).sum,
        writtenMs,
        (readers.values.toSeq :+ writtenMs).max,
        readers.size,
        readers.keySet.filter(alive(_)) ++ manifest.map(_.owner).filter(alive(_)),
        // A lease does not yet list attempts begun since its last renewal. And the writer of a
        // damaged manifest is not known: it may still read the data.
        manifest.isEmpty && (alive.nowMs - writtenMs <= alive.longestLeaseMs ||
          alive.writes.forall(_.contains(place.stem)))
      )
    }
  }

  /**
   * Directories with an attempt's full name that are empty or hold packs. Nothing else under `data` is
   * listed.
   */
  private def attempts(store: CheckpointStore): Seq[(CheckpointPlace, Seq[FileStatus])] = {
    val fs = store.fs
    def directories(path: Path, name: String) = list(fs, path).filter { found =>
      found.isDirectory && found.getPath.getName.matches(name) &&
      !HadoopFiles.isLink(fs, found.getPath)
    }.map(_.getPath)
    val data = CheckpointPlace.data(store.root)
    if (HadoopFiles.isLink(fs, data)) Nil
    else for {
      fingerprint <- directories(data, CheckpointPlace.Fingerprint)
      attempt <- directories(fingerprint, CheckpointPlace.Attempt)
      listed = list(fs, attempt)
      files = listed.filter(CheckpointPlace.isFile)
      if files.nonEmpty || listed.isEmpty
    } yield CheckpointPlace(store.root.toString, fingerprint.getName, attempt.getName) -> files
  }

  private def modified(fs: FileSystem, path: Path): Long =
    try fs.getFileStatus(path).getModificationTime
    catch { case _: FileNotFoundException => 0L }

  private def why(fs: FileSystem, tombstone: FileStatus): String =
    try
      Json.read(new String(HadoopFiles.readWhole(fs, tombstone.getPath), "UTF-8"))
        .path("why").asText("tombstone")
    catch { case _: IOException => "tombstone" }

  /** The first pack that is missing, or has another length than its manifest says. */
  def missing(manifest: Manifest, files: Seq[FileStatus]): Option[String] = {
    val lengths = files.map(file => file.getPath.getName -> file.getLen).toMap
    manifest.packs.iterator.flatMap { pack =>
      lengths.get(pack.file) match {
        case None => Some(s"${pack.file} is missing")
        case Some(found) if found != pack.bytes =>
          Some(s"${pack.file} has $found bytes, not ${pack.bytes}")
        case _ => None
      }
    }.nextOption()
  }
}

/**
 * The limits of a collection.
 *
 * @param maxAgeMs
 *   the time since a checkpoint was committed or last restored
 * @param maxBytes
 *   the bytes that the store may hold
 */
private[phoebe] final case class Limits(maxAgeMs: Long, maxBytes: Long)

/** One decision of a collection, with the reason. */
private[phoebe] final case class Collected(stocked: Stocked, remove: Boolean, reason: Reason)

/** Removes incomplete, damaged and old checkpoints from a store, and those beyond its limit. */
private[phoebe] object GarbageCollection {

  /** A pure function of the inventory: what to remove and why, least recently used first. */
  def decide(stock: Seq[Stocked], limits: Limits, nowMs: Long): Seq[Collected] = {
    val first = stock.sortBy(_.lastUsedMs).map { one =>
      val ageMs = nowMs - one.lastUsedMs
      if (one.users.nonEmpty) {
        val args = Map("applications" -> one.users.size)
        Collected(one, remove = false, Reason("in_use", "a running application needs it", args))
      } else if (one.unreadable.isDefined) {
        Collected(one, remove = false, Reason("unreadable", one.unreadable.get))
      } else if (one.isBeingWritten) {
        Collected(one, remove = false, Reason("being_written", "it may still be committed"))
      } else if (one.problem.isDefined) {
        Collected(one, remove = true, Reason("damaged", one.problem.get))
      } else if (one.manifest.isEmpty) {
        val message = "it was never committed, and no running application writes it"
        Collected(one, remove = true, Reason("left_behind", message))
      } else if (ageMs > limits.maxAgeMs) {
        val message = f"not used for ${ageMs / 3600000.0}%.1f hours"
        Collected(one, remove = true, Reason("expired", message, Map("age_ms" -> ageMs)))
      } else Collected(one, remove = false, Reason("kept", "within age and size"))
    }
    var total = first.filterNot(_.remove).map(_.stocked.bytes).sum
    first.map {
      case kept if kept.reason.code == "kept" && total > limits.maxBytes =>
        val message = s"the store holds $total bytes, ${limits.maxBytes} are allowed"
        total -= kept.stocked.bytes
        Collected(kept.stocked, remove = true, Reason("over_budget", message))
      case other => other
    }
  }

  /**
   * Lists, decides and removes. The renewal of its own lease gives the store's time.
   *
   * @param dryRun
   *   whether only to decide
   */
  def run(store: CheckpointStore, limits: Limits, dryRun: Boolean): Seq[Collected] = {
    val nowMs = store.renew()
    val catalog = store.catalogue()
    val alive = store.living(catalog, nowMs)
    if (!dryRun) store.shutOutExpired(catalog, alive)
    val decided = decide(StoreInventory.of(store, catalog, alive), limits, nowMs)
    if (dryRun) decided
    else {
      store.noteCollection()
      val done = decided.map {
        case one if one.remove && !store.retire(one.stocked.place, catalog, alive) =>
          Collected(
            one.stocked,
            remove = false,
            Reason("in_use", "an application has just taken it")
          )
        case other => other
      }
      store.tidy(catalog, alive)
      done
    }
  }
}
