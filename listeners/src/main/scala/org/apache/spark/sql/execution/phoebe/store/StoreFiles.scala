package org.apache.spark.sql.execution.phoebe.store

import java.io.{EOFException, FileNotFoundException, IOException}
import java.net.URI
import java.nio.charset.StandardCharsets.UTF_8
import java.nio.file.{DirectoryNotEmptyException, Files, Paths}
import java.util.concurrent.ExecutionException

import scala.util.control.NonFatal

import org.apache.hadoop.conf.Configuration
import org.apache.hadoop.fs.{
  CommonPathCapabilities,
  FileAlreadyExistsException,
  FileStatus,
  FileSystem,
  FSDataOutputStream,
  FSError,
  LocalFileSystem,
  Path
}

import org.apache.spark.internal.Logging
import org.apache.spark.sql.execution.phoebe.Json

/** A checkpoint's bytes are not those that were written: wrong length, checksum or header. */
class DamagedFileException(message: String) extends IOException(message)

/** How single files of a checkpoint store are made and read, on any Hadoop file system. */
private[phoebe] object StoreFiles extends Logging {

  /** Of a manifest, which is read into memory. */
  private val MostBytes = 1L << 30

  /**
   * The file system of a path. A local one is used without Hadoop's own checksum files: packs carry
   * a checksum for each chunk already.
   */
  def fileSystem(path: Path, conf: Configuration): FileSystem = path.getFileSystem(conf) match {
    case local: LocalFileSystem => local.getRawFileSystem
    case other => other
  }

  /** Whether a request to the store costs next to nothing, so that many small ones are fine. */
  def isLocal(fs: FileSystem): Boolean = isLocal(fs.getUri)

  /** By its name alone: to make a file system may take long. */
  def isLocal(uri: URI): Boolean = uri.getScheme == "file"

  /** What is in a directory; nothing where it is not there: others remove things meanwhile. */
  def list(fs: FileSystem, directory: Path): Seq[FileStatus] =
    try fs.listStatus(directory).toSeq
    catch { case _: FileNotFoundException => Nil }

  /**
   * Whether a file is seen by others only once it is closed, so that it need not be renamed. Elsewhere
   * (also ABFS, and whatever is not known) half of a file can be seen, and one file's rename is one
   * step, or a copy that is seen when it is whole.
   */
  def appearsAtClose(fs: FileSystem): Boolean = ObjectStores(fs.getUri.getScheme)

  private val ObjectStores = Set("s3a", "s3", "s3n", "gs", "oss", "cosn", "obs")

  /**
   * Removes a directory that nothing is in. Hadoop's local file system would take with it what is put
   * there just then, even if asked not to.
   */
  def removeIfEmpty(fs: FileSystem, directory: Path): Unit =
    if (isLocal(fs)) {
      try Files.deleteIfExists(Paths.get(directory.toUri.getPath)): Unit
      catch { case _: DirectoryNotEmptyException => }
    } else if (list(fs, directory).isEmpty) fs.delete(directory, false): Unit

  /** Creates a file that must not exist yet. */
  def create(fs: FileSystem, path: Path): FSDataOutputStream = create(fs, path, overwrite = false)

  /**
   * This overload leaves permissions to the directory: the others fork a `chmod` per file on a local
   * file system without Hadoop's native library.
   */
  private def create(fs: FileSystem, path: Path, overwrite: Boolean): FSDataOutputStream =
    fs.create(
      path,
      overwrite,
      1 << 18,
      fs.getDefaultReplication(path),
      fs.getDefaultBlockSize(path),
      null
    )

  def writeWhole(fs: FileSystem, path: Path, bytes: Array[Byte]): Unit = {
    val out = create(fs, path)
    try out.write(bytes)
    catch {
      case e: Throwable =>
        // On an object store closing would publish half of it.
        if (out.hasCapability(CommonPathCapabilities.ABORTABLE_STREAM)) out.abort()
        throw e
    } finally out.close()
  }

  /** As `writeWhole`, over what may be there. A reader may see half of it for a moment. */
  def overwrite(fs: FileSystem, path: Path, bytes: Array[Byte]): Unit = {
    val out = create(fs, path, overwrite = true)
    try out.write(bytes)
    finally out.close()
  }

  /**
   * Bytes of a file whose length is known: one request, where a store would else be asked for the
   * length first.
   *
   * @throws java.io.EOFException
   *   if the file ends before them
   */
  def readRange(
      fs: FileSystem,
      path: Path,
      fileBytes: Long,
      start: Long,
      size: Int
  ): Array[Byte] = {
    val bytes = new Array[Byte](size)
    val in = fs
      .openFile(path)
      .withFileStatus(new FileStatus(fileBytes, false, 1, 1L << 27, 0, path))
      .opt("fs.option.openfile.read.policy", "random")
      .opt("fs.option.openfile.length", fileBytes.toString)
      .build()
      .get()
    try in.readFully(start, bytes)
    finally in.close()
    bytes
  }

  /**
   * A whole file of that length.
   *
   * @throws DamagedFileException
   *   if it is shorter
   * @throws java.io.FileNotFoundException
   *   if it is gone
   */
  def readWhole(fs: FileSystem, path: Path, fileBytes: Long): Array[Byte] = {
    if (fileBytes > MostBytes) {
      throw new DamagedFileException(s"$path: $fileBytes bytes, more than it can be")
    }
    try readRange(fs, path, fileBytes, 0, fileBytes.toInt)
    catch {
      case e @ (_: IOException | _: ExecutionException | _: FSError) =>
        throw damage(fs, path, fileBytes, e).getOrElse(undecided(e))
    }
  }

  def readWhole(fs: FileSystem, path: Path): Array[Byte] =
    readWhole(fs, path, fs.getFileStatus(path).getLen)

  /** Says that a committed checkpoint is damaged, so that no later run meets it. Never throws. */
  def writeTombstone(place: CheckpointPlace, conf: Configuration, why: String): Unit =
    try {
      val json = Json.line("why" -> why, "time" -> System.currentTimeMillis())
      writeWhole(fileSystem(place.root, conf), place.tombstone, json.getBytes(UTF_8))
    } catch {
      case _: FileAlreadyExistsException => // someone else said so already
      case NonFatal(e) =>
        logWarning(s"phoebe: could not mark the damaged checkpoint ${place.directory}: $e")
    }

  /**
   * What an error met in reading a file says about it, after a second look in another way. A
   * connection that is closed early ends in an EOFException too (S3A), and where a file cannot be
   * opened some file systems say that there is none (a local one, also over NFS or FUSE, for any
   * reason).
   *
   * @return
   *   a [[DamagedFileException]] if the file is shorter than `fileBytes`, a `FileNotFoundException` if
   *   it is gone; None: nothing, the store has stumbled
   */
  def damage(
      fs: FileSystem,
      path: Path,
      fileBytes: Long,
      error: Throwable
  ): Option[IOException] = causeOf(error) match {
    case e @ (_: EOFException | _: FileNotFoundException) =>
      val found =
        try Right(list(fs, path.getParent).find(_.getPath.getName == path.getName))
        catch { case _: IOException => Left(()) }
      found match {
        case Right(None) => Some(new FileNotFoundException(s"$path does not exist"))
        case Right(Some(file)) if file.getLen < fileBytes =>
          Some(new DamagedFileException(s"$path: ${file.getLen} of $fileBytes bytes ($e)"))
        case _ => None
      }
    case _ => None
  }

  /**
   * An error that says nothing about the file, in a type that does not claim to. Hadoop's local file
   * system throws an `FSError`, which is no exception, where it cannot read.
   */
  def undecided(error: Throwable): Throwable = causeOf(error) match {
    case e @ (_: EOFException | _: FileNotFoundException | _: FSError) =>
      new IOException(e.toString, e)
    case e => e
  }

  /** The error itself, where another thread or a future has met it. */
  def causeOf(error: Throwable): Throwable = error match {
    case e: ExecutionException if e.getCause != null => e.getCause
    case e => e
  }

  /**
   * What means that the bytes are gone or wrong, as against a store that cannot be reached now: of
   * errors that have been looked at by `damage`.
   */
  def isDamage(e: Throwable): Boolean = e match {
    case _: DamagedFileException | _: FileNotFoundException => true
    case _ => false
  }
}

/**
 * Where one checkpoint lives in the store at `root`:
 *
 * {{{
 * <root>/data/<fingerprint>/<attempt>/m<map>-<id>.pack   map outputs (Pack)
 * <root>/catalog/<fingerprint>-<attempt>.manifest       written last: the commit
 *                <fingerprint>-<attempt>.damaged        a tombstone: never restored again
 *                <fingerprint>-<attempt>.reader-<owner> that application restored it
 *                <owner>.lease                          that application lives ([[Lease]])
 *                collected                              when garbage was last collected
 * }}}
 *
 * Every attempt to write has a name of its own, so drivers that write the same fingerprint at once
 * cannot meet. One listing of the catalogue, a flat directory, says all that a store holds.
 *
 * @param attempt
 *   32 hexadecimal digits
 */
private[phoebe] final case class CheckpointPlace(
    rootUri: String,
    fingerprint: String,
    attempt: String
) {
  def root: Path = new Path(rootUri)
  def directory: Path =
    new Path(root, s"${CheckpointPlace.DataDirectory}/$fingerprint/$attempt")
  def manifest: Path = inCatalog(CheckpointPlace.ManifestSuffix)
  def tombstone: Path = inCatalog(CheckpointPlace.TombstoneSuffix)
  def reader(owner: String): Path = inCatalog(CheckpointPlace.ReaderSuffix + owner)

  /** What its files in the catalogue begin with. */
  def stem: String = s"$fingerprint-$attempt"

  private def inCatalog(suffix: String) =
    new Path(CheckpointPlace.catalog(root), s"$stem$suffix")

  override def toString: String = directory.toString
}

private[phoebe] object CheckpointPlace {
  val DataDirectory = "data"
  val ManifestSuffix = ".manifest"
  val TombstoneSuffix = ".damaged"
  val ReaderSuffix = ".reader-"
  val LeaseSuffix = ".lease"
  val CollectedName = "collected"

  def catalog(root: Path): Path = new Path(root, "catalog")
  def data(root: Path): Path = new Path(root, DataDirectory)
  def lease(root: Path, owner: String): Path = new Path(catalog(root), owner + LeaseSuffix)
}
