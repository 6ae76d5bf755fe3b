package phoebe.store

import java.io.{FileNotFoundException, IOException}
import java.nio.charset.StandardCharsets.UTF_8
import java.util.concurrent.ConcurrentHashMap

import scala.jdk.CollectionConverters._
import scala.util.control.NonFatal

import org.apache.hadoop.conf.Configuration
import org.apache.hadoop.fs.{FileAlreadyExistsException, FileStatus, FileSystem, Path}

import org.apache.spark.broadcast.Broadcast
import org.apache.spark.internal.Logging
import phoebe.files.{DamagedFileException, HadoopFiles}

/**
 * A committed checkpoint that the store holds.
 *
 * @param held
 *   the bytes of its packs by file name, where readers have them from the driver instead
 */
final case class CommittedCheckpoint(
    place: CheckpointPlace,
    manifest: Manifest,
    held: Option[Broadcast[PackReader.PackBytes]] = None
)

/** By the file system's owners and modes, another user may have written a manifest. */
private[phoebe] final class NotOwnException(message: String) extends IOException(message)

/**
 * An application's view of a store: committed checkpoints, new attempts, commits, readers, and
 * removals. The layout is that of [[CheckpointPlace]].
 *
 * Every commit and every removal needs three things. The store's marker is still there. The file has
 * its full name. And the application's lease has not expired: after that it commits and removes
 * nothing ([[Fence]]).
 *
 * @param leaseMs
 *   how long this application counts as alive after its last `renew`
 * @param shared
 *   whether other users may read and write the store, and are trusted
 */
final class CheckpointStore(
    val root: Path,
    conf: Configuration,
    leaseMs: Long,
    shared: Boolean = false
) extends Logging {
  import CheckpointPlace._
  import CheckpointStore._
  import HadoopFiles._

  /** This application's name in the store. (Application ids of local mode are not unique.) */
  val owner: String = randomHex(OwnerDigits)

  /** Attempts that this application has begun and not removed, whether or not they are committed. */
  private val writes = ConcurrentHashMap.newKeySet[String]()

  /** Owners without a fence when this was checked, after the index was read. */
  private val unfencedOwners = ConcurrentHashMap.newKeySet[String]()

  private val directory = new StoreDirectory(root, conf, shared)

  private val ownLease = new StoreLease(directory, owner, leaseMs, () => writes.asScala.toSet)
  import ownLease.{entitled, fenceOf, shutOut}

  def fs: FileSystem = directory.fs

  /** See [[StoreDirectory.prepare]]. */
  def prepare(): Unit = directory.prepare()

  /** See [[StoreDirectory.open]]. */
  def open(): Boolean = directory.open()

  def catalogue(): Catalog = Catalog.read(fs, root)

  /** See [[StoreLease]]. */
  def isLost: Boolean = ownLease.isLost
  def renew(): Long = ownLease.renew()
  def stay(): Unit = ownLease.stay()
  def unlessLost(body: => Any): Unit = ownLease.unlessLost(body)
  def keepAlive(): Unit = ownLease.keepAlive()
  def watch(): Unit = ownLease.watch()
  def dropLease(): Unit = ownLease.drop()
  def living(catalog: Catalog, nowMs: Long): LiveOwners = ownLease.living(catalog, nowMs)
  def shutOutExpired(before: Catalog, alive: LiveOwners): Unit =
    ownLease.shutOutExpired(before, alive)

  /** The committed checkpoints of each fingerprint, newest first, tombstoned ones left out. */
  def readIndex(): Map[String, Seq[CatalogEntry]] = catalogue().index

  /**
   * The caller has pinned the checkpoint, so nobody removes files from now on; any file missing now
   * stays missing. The entry is from the index that was read at the start. An owner that is not fenced
   * now was not fenced then either, so its fence is checked once.
   *
   * @throws DamagedFileException
   *   if it is not the whole manifest of that fingerprint, or was committed by an application that
   *   was fenced before
   * @throws NotOwnException
   *   if another user may have written it
   * @throws java.io.FileNotFoundException
   *   if it was removed, or is being removed
   */
  def readManifest(entry: CatalogEntry): CommittedCheckpoint = {
    val found = decoded(entry)
    if (!unfencedOwners.contains(entry.place.owner)) {
      believed(entry.place)
      if (!ownLease.knowsFenceOf(entry.place.owner)) unfencedOwners.add(entry.place.owner): Unit
    }
    if (fs.exists(entry.place.leaving)) {
      throw new FileNotFoundException(s"${entry.place} is being removed")
    }
    found
  }

  /** As `readManifest`, but takes fences from one listing of the catalogue. */
  def readManifest(entry: CatalogEntry, catalog: Catalog): CommittedCheckpoint = {
    val found = decoded(entry)
    if (catalog.fences.contains(entry.place.owner)) believed(entry.place)
    found
  }

  private def decoded(entry: CatalogEntry): CommittedCheckpoint = {
    val place = entry.place
    if (!shared) {
      Rights.of(fs, place.manifest, followLinks = false)
        .flatMap(_.problem(followLinks = false)).foreach { problem =>
          throw new NotOwnException(s"${place.manifest} $problem")
        }
    }
    val manifest = Manifest.decode(
      readWhole(fs, place.manifest, entry.manifestBytes),
      place.manifest.toString
    )
    if (manifest.fingerprint != place.fingerprint) {
      throw new DamagedFileException(s"${place.manifest}: is of another fingerprint than its name")
    }
    if (manifest.owner != place.owner) {
      throw new DamagedFileException(s"${place.manifest}: is another application's than its name")
    }
    CommittedCheckpoint(place, manifest)
  }

  /** @throws DamagedFileException if its owner was fenced before it was committed */
  private def believed(place: CheckpointPlace): Unit =
    fenceOf(place.owner).filterNot(_.kept(place.stem)).foreach { fence =>
      throw new DamagedFileException(
        s"$place was committed after the lease of its application had run out (${fence.by} found so)"
      )
    }

  /** A new place for one attempt to write `fingerprint`. The first task that writes creates it. */
  def newAttempt(fingerprint: String): CheckpointPlace = {
    val attempt = owner + randomHex(OwnerDigits)
    val place = CheckpointPlace(root.toString, fingerprint, attempt)
    writes.add(place.stem)
    place
  }

  /** The first file of a manifest that is missing or has another length, by a listing made now. */
  def missing(place: CheckpointPlace, manifest: Manifest): Option[String] =
    if (manifest.packs.isEmpty) None
    else StoreInventory.missing(manifest, list(fs, place.directory))

  /**
   * The commit: the manifest appears whole under its name, or not at all.
   *
   * @throws LeaseLostException
   *   if the application was fenced before; a manifest that it may have written is ignored
   * @throws java.io.IOException
   *   also if a pack of the manifest is missing: it was removed, or its writer gave up
   */
  def commit(place: CheckpointPlace, manifest: Manifest): Unit = {
    val store = fs
    entitled()
    makeDirectory(store, catalog(root), !shared)
    missing(place, manifest).foreach(problem => throw new IOException(s"$place: $problem"))
    val bytes = Manifest.encode(manifest)
    if (appearsAtClose(store)) writeWhole(store, place.manifest, bytes)
    else {
      val temporary = new Path(place.directory, TemporaryManifest)
      writeWhole(store, temporary, bytes, !shared)
      if (!store.rename(temporary, place.manifest))
        throw new IOException(s"could not rename $temporary to ${place.manifest}")
    }
    // If this application was fenced meanwhile, the fence decides whether this commit is valid.
    ownLease.counts(place)
  }

  /**
   * Registers this application as a reader of a checkpoint, so that no other one removes it from now
   * on. It may have been removed before, so read its manifest after this.
   */
  def pin(place: CheckpointPlace): Unit = {
    ownLease.live()
    directory.wasJustNow()
    try writeWhole(fs, place.reader(owner), Array.emptyByteArray)
    catch { case _: FileAlreadyExistsException => } // pinned before
  }

  /** Ends the registration as a reader. */
  def unpin(place: CheckpointPlace): Unit = quietly(place) {
    fs.delete(place.reader(owner), false)
  }

  /**
   * Removes what this application wrote or restored, except what another one may still need.
   *
   * @return
   *   the checkpoints that were removed
   */
  def release(places: Set[CheckpointPlace]): Set[CheckpointPlace] =
    if (places.isEmpty) Set.empty
    else
      try {
        val nowMs = renew()
        val before = catalogue()
        val alive = living(before, nowMs)
        shutOutExpired(before, alive)
        places.filter { place =>
          var gone = false
          quietly(place) {
            val others = users(before, alive, place) ++ Some(place.owner).filter(alive(_)) - owner
            gone = others.isEmpty && retire(place, before, alive)
          }
          gone
        }
      } catch {
        case _: LeaseLostException => Set.empty // logged already
        case e: StoreRefusedException =>
          logWarning(s"phoebe: nothing is removed: ${e.getMessage}")
          Set.empty
      }

  /** The living applications that restored a checkpoint. */
  def users(catalog: Catalog, alive: LiveOwners, place: CheckpointPlace): Set[String] =
    catalog.readers.getOrElse(place.stem, Map.empty).keySet.filter(alive(_))

  /**
   * Removes a checkpoint that had no users when `before` was listed. Writes `.leaving` first, so later
   * readers see it; a reader registered since `before` keeps the checkpoint. A process suspended before
   * the mark finds itself fenced; suspended after it, it removes only unread files.
   *
   * @return
   *   whether all of it was removed
   */
  def retire(place: CheckpointPlace, before: Catalog, alive: LiveOwners): Boolean = {
    entitled()
    val store = fs
    if (!before.entries.exists(_.place == place)) {
      // Its writer may have been suspended right before its commit.
      if (place.owner != owner && !alive(place.owner) && !alive.isGone(place.owner)) {
        shutOut(place.owner)
      }
      // It was committed since, by an application whose lease has expired by now.
      if (store.exists(place.manifest) && fenceOf(place.owner).forall(_.kept(place.stem))) {
        return false
      }
    }
    if (!leaves(place, alive)) false
    else {
      entitled()
      val known = before.readers.getOrElse(place.stem, Map.empty).keySet + owner
      val taken = !readers(place).flatMap(path => Catalog.readerOf(path.getName)).forall(known)
      // Another application's mark is kept: it may be suspended right before it removes the files.
      if (!taken) removeFiles(place)
      else if (leaver(place).contains(owner)) store.delete(place.leaving, false): Unit
      !taken
    }
  }

  /** Marks a checkpoint as being removed. False if another living application is removing it. */
  private def leaves(place: CheckpointPlace, alive: LiveOwners): Boolean =
    createWhole(fs, place.leaving, owner.getBytes(UTF_8), !shared) ||
      leaver(place).exists(found => found == owner || !alive(found))

  private def leaver(place: CheckpointPlace): Option[String] =
    try Some(new String(readWhole(fs, place.leaving), UTF_8))
    catch { case _: FileNotFoundException => None }

  private def readers(place: CheckpointPlace): Seq[Path] =
    Option(fs.globStatus(place.reader("*"))).toSeq.flatten.map(_.getPath)
      .filter(path => Catalog.readerOf(path.getName).isDefined)

  /** Removes an attempt of this application with all its files. */
  def remove(place: CheckpointPlace): Unit = quietly(place) {
    entitled()
    // It may have been restored since.
    if (fs.exists(place.manifest)) release(Set(place)): Unit
    else removeFiles(place)
  }

  /** Removes only files with a checkpoint's names. A directory with other files is kept. */
  private def removeFiles(place: CheckpointPlace): Unit = {
    val store = fs
    store.delete(place.manifest, false)
    files(place).foreach { file =>
      keepAlive()
      store.delete(file.getPath, false)
    }
    store.delete(place.tombstone, false)
    readers(place).foreach(store.delete(_, false))
    if (!isLink(store, place.directory) && !isLink(store, place.directory.getParent)) {
      removeIfEmpty(store, place.directory)
      removeIfEmpty(store, place.directory.getParent) // unless it has other attempts
    }
    store.delete(place.leaving, false)
    writes.remove(place.stem)
  }

  /** The files of a checkpoint, without other files in its directory. */
  def files(place: CheckpointPlace): Seq[FileStatus] = {
    val store = fs
    val above = Seq(place.directory, place.directory.getParent, data(root))
    if (above.exists(isLink(store, _))) Nil
    else list(store, place.directory).filter(isFile)
  }

  /** Notes the time of a garbage collection, so that other applications do not repeat it soon. */
  def noteCollection(): Unit = {
    entitled()
    overwrite(fs, new Path(catalog(root), CollectedName), Array.emptyByteArray)
  }

  /** Removes catalogue files of applications that have ended and of checkpoints that were removed. */
  def tidy(before: Catalog, alive: LiveOwners): Unit = {
    entitled()
    val store = fs
    val left = catalogue().entries.map(_.place)
    val stems = left.map(_.stem).toSet
    val owners = left.map(_.owner).toSet
    def remove(old: Iterable[FileStatus], ageMs: Long = 0): Unit = old.foreach { file =>
      if (alive.nowMs - file.getModificationTime >= ageMs) store.delete(file.getPath, false): Unit
    }
    for {
      (stem, who) <- before.readers if !stems(stem)
      reader <- who.keys if !alive(reader)
    } store.delete(new Path(catalog(root), stem + ReaderSuffix + reader), false)
    remove(before.leases.collect { case (who, file) if !alive(who) => file })
    remove(before.tombstones.collect { case (stem, file) if !stems(stem) => file })
    remove(before.leaving.collect { case (stem, f) if !stems(stem) => f }, alive.longestLeaseMs)
    remove(before.temporaries, alive.longestLeaseMs)
    // An application suspended for still longer notices by its own clock that its lease has expired.
    remove(before.fences.collect { case (who, file) if !owners(who) => file }, FenceMs)
  }

  /**
   * Removes the packs that a committed manifest does not name: duplicate outputs, and incomplete packs
   * of a lost executor.
   */
  def removeOthers(place: CheckpointPlace, manifest: Manifest): Unit = quietly(place) {
    val named = manifest.packs.map(_.file).toSet
    val others = files(place).map(_.getPath).filterNot(path => named(path.getName))
    if (others.nonEmpty) entitled()
    others.foreach(other => quietly(place)(fs.delete(other, false)))
  }

  private def quietly(place: CheckpointPlace)(body: => Unit): Unit =
    try body
    catch {
      case _: FileNotFoundException =>
      case _: LeaseLostException => // logged already
      case NonFatal(e) => logWarning(s"phoebe: could not remove $place: $e")
    }
}

object CheckpointStore {

  /** How long the fence of an application without checkpoints is kept. */
  private val FenceMs = 30L * 24 * 3600 * 1000
}
