package org.apache.spark.sql.execution.phoebe.store

import java.io.{FileNotFoundException, IOException}
import java.util.UUID
import java.util.concurrent.ConcurrentHashMap

import scala.jdk.CollectionConverters._
import scala.util.control.NonFatal

import org.apache.hadoop.conf.Configuration
import org.apache.hadoop.fs.{FileAlreadyExistsException, FileSystem, Path}
import org.apache.hadoop.fs.permission.FsPermission

import org.apache.spark.internal.Logging

/** A committed checkpoint that the store holds. */
private[phoebe] final case class CommittedCheckpoint(place: CheckpointPlace, manifest: Manifest)

/**
 * An application's view of a store: what is committed, new attempts, commits, who reads what, and
 * removals. The layout is that of [[CheckpointPlace]].
 *
 * @param leaseMs
 *   how long this application counts for alive after it has last said so (`renew`)
 * @param shared
 *   whether other users may look into it
 */
private[phoebe] final class CheckpointStore(
    val root: Path,
    conf: Configuration,
    leaseMs: Long,
    shared: Boolean = false
) extends Logging {
  import CheckpointPlace._
  import StoreFiles._

  /** This application's name in the store; application ids of local mode come again. */
  val owner: String = hex(UUID.randomUUID())

  /** Attempts begun here that are not removed: their writer's, whatever their manifests look like. */
  private val writes = ConcurrentHashMap.newKeySet[String]()

  /** One at a time: two that write one file may spoil each other's. */
  private val renewing = new Object

  /** When this application last said that it lives, by `System.nanoTime`; guarded by `renewing`. */
  private var renewedNs: Option[Long] = None

  /** Whether it says so no more; guarded by `renewing`. */
  private var left = false

  def fs: FileSystem = fileSystem(root, conf)

  def catalogue(): Catalog = Catalog.read(fs, root)

  /** The committed checkpoints of each fingerprint, newest first, tombstoned ones left out. */
  def readIndex(): Map[String, Seq[CatalogEntry]] = catalogue().index

  /**
   * @throws DamagedFileException
   *   if it is not the whole manifest of that fingerprint
   * @throws java.io.FileNotFoundException
   *   if it was removed
   */
  def readManifest(entry: CatalogEntry): CommittedCheckpoint = {
    val place = entry.place
    val manifest = Manifest.decode(
      readWhole(fs, place.manifest, entry.manifestBytes),
      place.manifest.toString
    )
    if (manifest.fingerprint != place.fingerprint) {
      throw new DamagedFileException(s"${place.manifest}: is of another fingerprint than its name")
    }
    CommittedCheckpoint(place, manifest)
  }

  /** A fresh place for one attempt to write `fingerprint`; made by the first task that writes. */
  def newAttempt(fingerprint: String): CheckpointPlace = {
    val place = CheckpointPlace(root.toString, fingerprint, hex(UUID.randomUUID()))
    writes.add(place.stem)
    place
  }

  /** Makes the directories, private to their owner unless others may look into the store. */
  def prepare(): Unit = {
    val store = fs
    Seq(root, catalog(root), data(root)).foreach { directory =>
      if (!store.exists(directory)) {
        if (!store.mkdirs(directory)) throw new IOException(s"cannot create $directory")
        if (!shared) store.setPermission(directory, new FsPermission("700"))
      }
    }
  }

  /**
   * Says that this application lives.
   *
   * @return
   *   when it was said, by the store's clock
   */
  def renew(): Long = renewing.synchronized {
    if (left) throw new IOException("the application has left the store")
    val began = System.nanoTime()
    val file = lease(root, owner)
    overwrite(fs, file, Lease.own(leaseMs, writes.asScala.toSet).encode)
    renewedNs = Some(began)
    fs.getFileStatus(file).getModificationTime
  }

  /** As `renew`, unless the application has left the store. */
  def stay(): Unit = renewing.synchronized { if (!left) renew() }

  /** As `stay`, where that was not done lately: it is done three times in a lease anyway. */
  private def live(): Unit = renewing.synchronized {
    if (!renewedNs.exists(System.nanoTime() - _ < leaseMs / 2 * 1000000)) stay()
  }

  /** This application needs nothing of the store any more, and its lease is not renewed again. */
  def dropLease(): Unit = renewing.synchronized {
    left = true
    if (renewedNs.isDefined) fs.delete(lease(root, owner), false)
  }

  /** Who is alive, as `catalog` has it, at a time by the store's clock. */
  def living(catalog: Catalog, nowMs: Long): Living = {
    val leases = catalog.leases.map { case (who, status) =>
      val read =
        try Lease.decode(readWhole(fs, status.getPath))
        catch { case _: IOException => None }
      who -> read
    }
    Living(leases, catalog.leases.map(l => l._1 -> l._2.getModificationTime), nowMs, leaseMs)
  }

  /** What a manifest names and is not there, or has another length; looked at now. */
  def missing(place: CheckpointPlace, manifest: Manifest): Option[String] =
    if (manifest.packs.isEmpty) None else Stock.missing(manifest, list(fs, place.directory))

  /**
   * The commit: the manifest appears whole under its name, or not at all.
   *
   * @throws java.io.IOException
   *   also if what it names is not there: somebody may have removed it, or its writer have given up
   */
  def commit(place: CheckpointPlace, manifest: Manifest): Unit = {
    val store = fs
    live()
    missing(place, manifest).foreach(problem => throw new IOException(s"$place: $problem"))
    val bytes = Manifest.encode(manifest)
    if (appearsAtClose(store)) writeWhole(store, place.manifest, bytes)
    else {
      val temporary = new Path(place.directory, "manifest.tmp")
      writeWhole(store, temporary, bytes)
      if (!store.mkdirs(catalog(root)) || !store.rename(temporary, place.manifest))
        throw new IOException(s"could not rename $temporary to ${place.manifest}")
    }
  }

  /**
   * Says that this application reads a checkpoint, so that nobody else removes it from now on. It
   * may have been removed before: its manifest is to be read after this.
   */
  def pin(place: CheckpointPlace): Unit = {
    live()
    try writeWhole(fs, place.reader(owner), Array.emptyByteArray)
    catch { case _: FileAlreadyExistsException => } // it said so before
  }

  /** The application does not read it after all. */
  def unpin(place: CheckpointPlace): Unit = quietly(place) {
    fs.delete(place.reader(owner), false)
  }

  /**
   * Removes what this application wrote or restored, except what another one may still need.
   *
   * @return
   *   what is gone
   */
  def release(places: Set[CheckpointPlace]): Set[CheckpointPlace] =
    if (places.isEmpty) Set.empty
    else {
      val nowMs = renew()
      val before = catalogue()
      val alive = living(before, nowMs)
      val committed = before.entries.map(entry => entry.place -> entry).toMap
      places.filter { place =>
        var gone = false
        quietly(place) {
          val others = committed.get(place).toSeq.flatMap { entry =>
            val writer = readManifest(entry).manifest.owner
            users(before, alive, place) ++ Some(writer).filter(alive(_))
          }.toSet - owner
          gone = others.isEmpty && retire(place, before)
        }
        gone
      }
    }

  /** The living applications that restored a checkpoint. */
  def users(catalog: Catalog, alive: Living, place: CheckpointPlace): Set[String] =
    catalog.readers.getOrElse(place.stem, Map.empty).keySet.filter(alive(_))

  /**
   * Removes a checkpoint that nobody needed when `before` was listed. The manifest goes first: who
   * says from then on that it reads it will see that it is gone. Who said so since `before`, and has
   * read the manifest, keeps the data; it goes with the next collection.
   *
   * @return
   *   whether all of it is gone
   */
  def retire(place: CheckpointPlace, before: Catalog): Boolean = {
    val store = fs
    // Committed since, by an application whose lease is not renewed any more.
    if (!before.entries.exists(_.place == place) && store.exists(place.manifest)) return false
    store.delete(place.manifest, false)
    val known = before.readers.getOrElse(place.stem, Map.empty).keySet + owner
    val since = Option(store.globStatus(place.reader("*"))).toSeq.flatten
      .map(_.getPath.getName.stripPrefix(place.stem + ReaderSuffix))
    val gone = since.forall(known)
    if (gone) removeFiles(place)
    gone
  }

  /** Removes an attempt and all that there is of it. */
  def remove(place: CheckpointPlace): Unit = quietly(place)(removeFiles(place))

  private def removeFiles(place: CheckpointPlace): Unit = {
    val store = fs
    store.delete(place.manifest, false)
    store.delete(place.directory, true)
    store.delete(place.tombstone, false)
    Option(store.globStatus(place.reader("*"))).toSeq.flatten.foreach { reader =>
      store.delete(reader.getPath, false)
    }
    removeIfEmpty(store, place.directory.getParent) // no other attempt is in it
    writes.remove(place.stem)
  }

  /** Garbage is collected now: no other application needs to for a while. */
  def noteCollection(): Unit =
    overwrite(fs, new Path(catalog(root), CollectedName), Array.emptyByteArray)

  /** Removes what is left in the catalogue of applications that are dead and of checkpoints gone. */
  def tidy(before: Catalog, alive: Living): Unit = {
    val store = fs
    val stems = catalogue().entries.map(_.place.stem).toSet
    for {
      (stem, owners) <- before.readers if !stems(stem)
      who <- owners.keys if !alive(who)
    } store.delete(new Path(catalog(root), stem + ReaderSuffix + who), false)
    before.leases.keys.filterNot(alive(_)).foreach(who => store.delete(lease(root, who), false))
    before.tombstones.foreach { case (stem, file) =>
      if (!stems(stem)) store.delete(file.getPath, false)
    }
  }

  /**
   * Removes what a committed manifest does not name: outputs that another one stands for, halves that
   * a lost executor left.
   */
  def removeOthers(place: CheckpointPlace, manifest: Manifest): Unit = quietly(place) {
    val named = manifest.packs.map(_.file).toSet
    val store = fs
    list(store, place.directory).map(_.getPath).filterNot(path => named(path.getName)).foreach {
      other => quietly(place)(store.delete(other, false))
    }
  }

  private def quietly(place: CheckpointPlace)(body: => Unit): Unit =
    try body
    catch {
      case _: FileNotFoundException =>
      case NonFatal(e) => logWarning(s"phoebe: could not remove $place: $e")
    }

  private def hex(id: UUID): String = id.toString.replace("-", "")
}
