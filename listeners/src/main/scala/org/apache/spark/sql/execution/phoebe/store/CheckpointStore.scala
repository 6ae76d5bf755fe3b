package org.apache.spark.sql.execution.phoebe.store

import java.io.{FileNotFoundException, IOException}
import java.nio.charset.StandardCharsets.UTF_8
import java.util.UUID

import scala.util.control.NonFatal

import org.apache.hadoop.conf.Configuration
import org.apache.hadoop.fs.{FileAlreadyExistsException, FileSystem, Path}
import org.apache.hadoop.fs.permission.FsPermission

import org.apache.spark.internal.Logging
import org.apache.spark.sql.execution.phoebe.Json
import org.apache.spark.util.Utils

/** A committed checkpoint that the store's catalogue names; its manifest has not been read yet. */
private[phoebe] final case class CatalogEntry(
    place: CheckpointPlace,
    committedAtMs: Long,
    manifestBytes: Long
)

/** A committed checkpoint that the store holds. */
private[phoebe] final case class CommittedCheckpoint(place: CheckpointPlace, manifest: Manifest)

/**
 * The driver's view of a store: what was committed before this application started (read once, in
 * the background, by one listing), new attempts, commits and removals. The layout is that of
 * [[CheckpointPlace]].
 */
private[phoebe] final class CheckpointStore(val root: Path, conf: Configuration) extends Logging {
  import CheckpointPlace._
  import StoreFiles._

  private def fs: FileSystem = fileSystem(root, conf)

  /** The committed checkpoints of each fingerprint, newest first, tombstoned ones left out. */
  def readIndex(): Map[String, Seq[CatalogEntry]] = {
    val listed =
      try fs.listStatus(catalog(root)).toSeq
      catch { case _: FileNotFoundException => Nil }
    val buried = listed
      .map(_.getPath.getName)
      .collect { case name if name.endsWith(TombstoneSuffix) => name.stripSuffix(TombstoneSuffix) }
      .toSet
    listed
      .flatMap { status =>
        val name = status.getPath.getName
        if (!name.endsWith(ManifestSuffix)) None
        else
          name.stripSuffix(ManifestSuffix) match {
            case stem if buried(stem) => None
            case CheckpointStore.Stem(fingerprint, attempt) =>
              val place = CheckpointPlace(root.toString, fingerprint, attempt)
              Some(CatalogEntry(place, status.getModificationTime, status.getLen))
            case _ => None
          }
      }
      .groupBy(_.place.fingerprint)
      .map { case (fingerprint, same) => fingerprint -> same.sortBy(-_.committedAtMs) }
  }

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
  def newAttempt(fingerprint: String): CheckpointPlace =
    CheckpointPlace(root.toString, fingerprint, UUID.randomUUID().toString.replace("-", ""))

  /** Makes the root private to its owner if it is new. */
  def prepare(): Unit = {
    val store = fs
    if (!store.exists(root)) {
      if (!store.mkdirs(root))
        throw new IOException(s"cannot create the checkpoint directory $root")
      store.setPermission(root, new FsPermission("700"))
    }
  }

  /**
   * The commit: the manifest appears whole under its name, or not at all. Where rename is not atomic
   * (object stores) a file appears when it is closed, so it is created under its name at once.
   */
  def commit(place: CheckpointPlace, manifest: Manifest): Unit = {
    val store = fs
    val bytes = Manifest.encode(manifest)
    store.getUri.getScheme match {
      case "file" | "hdfs" | "viewfs" =>
        val temporary = new Path(place.directory, "manifest.tmp")
        writeWhole(store, temporary, bytes)
        if (!store.mkdirs(catalog(root)) || !store.rename(temporary, place.manifest))
          throw new IOException(s"could not rename $temporary to ${place.manifest}")
      case _ => writeWhole(store, place.manifest, bytes)
    }
  }

  /**
   * Says that an application reads a checkpoint, so that nobody else removes it from now on. It may
   * have been removed before: its manifest is to be read after this.
   */
  def pin(place: CheckpointPlace, appId: String): Unit = {
    val who = Json.line("host" -> Utils.localHostName(), "pid" -> ProcessHandle.current().pid())
    try writeWhole(fs, place.reader(appId), who.getBytes(UTF_8))
    catch { case _: FileAlreadyExistsException => } // it said so before
  }

  /** The application does not read it after all. */
  def unpin(place: CheckpointPlace, appId: String): Unit = quietly(place) {
    fs.delete(place.reader(appId), false)
  }

  /**
   * Removes a checkpoint that this application wrote or restored, unless another one may still need
   * it: its writer (which has freed its local files) or any reader that is not known to be dead. The
   * manifest goes first, so whoever pins it from then on sees that it is gone.
   */
  def release(place: CheckpointPlace, appId: String): Unit = quietly(place) {
    val store = fs
    store.delete(place.reader(appId), false)
    val manifest = Manifest.decode(readWhole(store, place.manifest), s"$place")
    val writerNeedsIt = manifest.appId != appId && !isDead(manifest.host, manifest.pid)
    if (!writerNeedsIt && !hasReaders(place)) {
      store.delete(place.manifest, false)
      if (!hasReaders(place)) remove(place)
    }
  }

  private def hasReaders(place: CheckpointPlace): Boolean =
    Option(fs.globStatus(place.reader("*"))).toSeq.flatten.exists { status =>
      val who = Json.read(new String(readWhole(fs, status.getPath), UTF_8))
      !isDead(who.path("host").asText, who.path("pid").asLong)
    }

  /** Only a process of this machine can be known to be dead. */
  private def isDead(host: String, pid: Long): Boolean =
    host == Utils.localHostName() && !ProcessHandle.of(pid).map[Boolean](_.isAlive).orElse(false)

  /** Removes an attempt and all that there is of it. */
  def remove(place: CheckpointPlace): Unit = quietly(place) {
    val store = fs
    store.delete(place.manifest, false)
    store.delete(place.directory, true)
    store.delete(place.tombstone, false)
    Option(store.globStatus(place.reader("*"))).toSeq.flatten.foreach { reader =>
      store.delete(reader.getPath, false)
    }
    // Not recursive: it stays as long as another attempt is in it.
    val parent = place.directory.getParent
    if (store.exists(parent) && store.listStatus(parent).isEmpty) store.delete(parent, false)
  }

  /** Removes a file that no manifest names. */
  def removePack(place: CheckpointPlace, file: String): Unit = quietly(place) {
    fs.delete(new Path(place.directory, file), false)
  }

  private def quietly(place: CheckpointPlace)(body: => Unit): Unit =
    try body
    catch {
      case _: FileNotFoundException =>
      case NonFatal(e) => logWarning(s"phoebe: could not remove $place: $e")
    }
}

private[phoebe] object CheckpointStore {
  private val Stem = "([0-9a-f]+)-([0-9a-f]{32})".r
}
