package phoebe.store

import java.nio.charset.StandardCharsets.UTF_8

import scala.util.control.NonFatal

import org.apache.hadoop.conf.Configuration
import org.apache.hadoop.fs.{FileAlreadyExistsException, FileStatus, Path}

import org.apache.spark.internal.Logging
import phoebe.Json
import phoebe.files.HadoopFiles

/**
 * Where one checkpoint lives in the store at `root`:
 *
 * {{{
 * <root>/phoebe-store.json                              the marker of a store ([[StoreMarker]])
 * <root>/data/<fingerprint>/<attempt>/m<map>-<id>.pack   map outputs (Pack)
 * <root>/catalog/<fingerprint>-<attempt>.manifest       written last: the commit
 *                <fingerprint>-<attempt>.damaged        a tombstone: never restored again
 *                <fingerprint>-<attempt>.leaving        it is being removed: not restored any more
 *                <fingerprint>-<attempt>.reader-<owner> that application restored it
 *                <owner>.lease                          that application is alive ([[Lease]])
 *                <owner>.fenced                         its lease has expired ([[Fence]])
 *                collected                              when garbage was last collected
 * }}}
 *
 * Every attempt to write has its own name, so drivers that write the same fingerprint at once do not
 * meet. The catalogue is a flat directory, so one listing shows everything that a store holds. A file
 * with any other name is not ours: it is neither read nor removed.
 *
 * @param fingerprint
 *   64 hexadecimal digits
 * @param attempt
 *   32 hexadecimal digits; the first 16 are its owner's
 */
final case class CheckpointPlace(
    rootUri: String,
    fingerprint: String,
    attempt: String
) {
  def root: Path = new Path(rootUri)
  def directory: Path =
    new Path(root, s"${CheckpointPlace.DataDirectory}/$fingerprint/$attempt")
  def manifest: Path = inCatalog(CheckpointPlace.ManifestSuffix)
  def tombstone: Path = inCatalog(CheckpointPlace.TombstoneSuffix)
  def leaving: Path = inCatalog(CheckpointPlace.LeavingSuffix)
  def reader(owner: String): Path = inCatalog(CheckpointPlace.ReaderSuffix + owner)

  /** The application that writes it. */
  def owner: String = attempt.take(CheckpointPlace.OwnerDigits)

  /** The beginning of its files' names in the catalogue. */
  def stem: String = s"$fingerprint-$attempt"

  private def inCatalog(suffix: String) =
    new Path(CheckpointPlace.catalog(root), s"$stem$suffix")

  override def toString: String = directory.toString
}

object CheckpointPlace {
  val DataDirectory = "data"
  val ManifestSuffix = ".manifest"
  val TombstoneSuffix = ".damaged"
  val LeavingSuffix = ".leaving"
  val ReaderSuffix = ".reader-"
  val LeaseSuffix = ".lease"
  val FencedSuffix = ".fenced"
  val CollectedName = "collected"
  val TemporaryManifest = "manifest.tmp"
  val OwnerDigits = 16

  val Fingerprint = "[0-9a-f]{64}"
  val Attempt = "[0-9a-f]{32}"
  private val File = s"m[0-9]+-[0-9]+\\.pack|${java.util.regex.Pattern.quote(TemporaryManifest)}"

  /** Whether a file has a name that a checkpoint's directory can hold. */
  def isFile(file: FileStatus): Boolean = file.isFile && file.getPath.getName.matches(File)

  def catalog(root: Path): Path = new Path(root, "catalog")
  def data(root: Path): Path = new Path(root, DataDirectory)
  def lease(root: Path, owner: String): Path = new Path(catalog(root), owner + LeaseSuffix)
  def fence(root: Path, owner: String): Path = new Path(catalog(root), owner + FencedSuffix)
}

/** The file that marks a committed checkpoint as damaged. */
object Tombstone extends Logging {

  /**
   * Marks the checkpoint, so that no later run restores it. Never throws. Where the store is gone
   * nothing is written: that would create a directory without a marker.
   */
  def write(place: CheckpointPlace, conf: Configuration, why: String): Unit =
    try {
      val fs = HadoopFiles.fileSystem(place.root, conf)
      if (StoreMarker.read(fs, place.root).isDefined) {
        val json = Json.line("why" -> why, "time" -> System.currentTimeMillis())
        HadoopFiles.writeWhole(fs, place.tombstone, json.getBytes(UTF_8))
      }
    } catch {
      case _: FileAlreadyExistsException => // another process has marked it
      case NonFatal(e) =>
        logWarning(s"phoebe: could not mark the damaged checkpoint ${place.directory}: $e")
    }
}
