package phoebe.files

import java.io.{EOFException, FileNotFoundException, IOException}
import java.net.URI
import java.nio.file.{
  DirectoryNotEmptyException,
  FileAlreadyExistsException => LocalFileExists,
  FileSystemException,
  Files,
  Path => LocalPath,
  Paths,
  StandardOpenOption
}
import java.nio.file.attribute.{FileAttribute, PosixFilePermissions}
import java.util.UUID
import java.util.concurrent.ExecutionException

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
import org.apache.hadoop.fs.permission.FsPermission

import org.apache.spark.sql.execution.phoebe.compat.SparkVersion

/** A file's bytes are not those that were written: wrong length, checksum or header. */
class DamagedFileException(message: String) extends IOException(message)

/** Creating and reading single files on any Hadoop file system. */
object HadoopFiles {

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

  /** Whether requests cost almost nothing, so that many small ones are acceptable. */
  def isLocal(fs: FileSystem): Boolean = isLocal(fs.getUri)

  /** By the URI alone, because creating a file system may take long. */
  def isLocal(uri: URI): Boolean = uri.getScheme == "file"

  def randomHex(digits: Int): String = UUID.randomUUID().toString.replace("-", "").take(digits)

  /** The files of a directory; empty if it does not exist, as another process may have removed it. */
  def list(fs: FileSystem, directory: Path): Seq[FileStatus] =
    try fs.listStatus(directory).toSeq
    catch { case _: FileNotFoundException => Nil }

  /**
   * Whether a file becomes visible only when it is closed, so that it need not be renamed. On other file
   * systems (also on ABFS and unknown ones) an incomplete file is visible. There the rename of a file is
   * one step, or a copy that is visible only when it is complete.
   */
  def appearsAtClose(fs: FileSystem): Boolean = ObjectStores(fs.getUri.getScheme)

  private val ObjectStores = Set("s3a", "s3", "s3n", "gs", "oss", "cosn", "obs")

  /**
   * Removes a directory if it is empty. Hadoop's local file system would also remove files created at that
   * moment, even in a non-recursive call.
   */
  def removeIfEmpty(fs: FileSystem, directory: Path): Unit =
    if (isLocal(fs)) {
      try Files.deleteIfExists(local(directory)): Unit
      catch { case _: DirectoryNotEmptyException => }
    } else if (list(fs, directory).isEmpty) fs.delete(directory, false): Unit

  /** Whether it is a symbolic link; elsewhere than on a local file system there are none. */
  def isLink(fs: FileSystem, path: Path): Boolean = isLocal(fs) && Files.isSymbolicLink(local(path))

  private def local(path: Path): LocalPath = Paths.get(path.toUri.getPath)

  private def attributes(isPrivate: Boolean, mode: String): Seq[FileAttribute[_]] =
    if (isPrivate && !isWindows) {
      Seq(PosixFilePermissions.asFileAttribute(PosixFilePermissions.fromString(mode)))
    } else Nil

  private val isWindows = System.getProperty("os.name", "").startsWith("Windows")
  private val PrivateFile = new FsPermission("600")
  private val PrivateDirectory = new FsPermission("700")

  /**
   * Creates a directory if it does not exist. A private one (0700) has its mode from the beginning; the
   * directories above it get the default mode.
   */
  def makeDirectory(fs: FileSystem, directory: Path, isPrivate: Boolean): Unit =
    if (!isPrivate) mkdirs(fs.mkdirs(directory), directory)
    else if (isLocal(fs)) {
      val made = local(directory)
      if (!Files.isDirectory(made)) {
        Option(made.getParent).foreach(Files.createDirectories(_))
        try Files.createDirectory(made, attributes(isPrivate, "rwx------"): _*): Unit
        catch { case _: LocalFileExists if Files.isDirectory(made) => }
      }
    } else if (!fs.exists(directory)) mkdirs(fs.mkdirs(directory, PrivateDirectory), directory)

  private def mkdirs(made: Boolean, directory: Path): Unit =
    if (!made) throw new IOException(s"cannot create $directory")

  /** Whether a file is temporary, to be renamed or linked; a leftover one has no meaning. */
  def isTemporary(name: String): Boolean = Temporary.pattern.matcher(name).matches
  private val Temporary = ".+\\.[0-9a-f]{16}\\.tmp".r

  /**
   * Creates a file with all its bytes, unless it exists. Of several concurrent calls only one creates it.
   * An incomplete file is never visible, except on a local file system without hard links.
   *
   * @return
   *   whether this call created it, by its bytes; so these must be unique to the caller
   */
  def createWhole(fs: FileSystem, path: Path, bytes: Array[Byte], isPrivate: Boolean): Boolean =
    if (isLocal(fs)) createLocal(local(path), bytes, isPrivate)
    else if (appearsAtClose(fs)) createAtOnce(fs, path, bytes)
    else {
      val temporary = temporaryOf(path)
      writeWhole(fs, temporary, bytes, isPrivate)
      var renamed = false
      try renamed = !fs.exists(path) && fs.rename(temporary, path)
      catch { case _: FileAlreadyExistsException => }
      finally if (!renamed) fs.delete(temporary, false): Unit
      // A rename that succeeded may be reported as failed if the client has retried it.
      renamed || holds(fs, path, bytes)
    }

  private def temporaryOf(path: Path) = path.suffix(s".${randomHex(16)}.tmp")

  private def createLocal(path: LocalPath, bytes: Array[Byte], isPrivate: Boolean): Boolean = {
    val temporary = path.resolveSibling(s"${path.getFileName}.${randomHex(16)}.tmp")
    try {
      writeLocal(temporary, bytes, isPrivate)
      try {
        Files.createLink(path, temporary)
        true
      } catch {
        case _: LocalFileExists => false
        case _: UnsupportedOperationException | _: FileSystemException =>
          writeLocal(path, bytes, isPrivate)
          true
      }
    } catch { case _: LocalFileExists => false }
    finally Files.deleteIfExists(temporary): Unit
  }

  private def writeLocal(path: LocalPath, bytes: Array[Byte], isPrivate: Boolean): Unit = {
    import java.nio.file.StandardOpenOption.{CREATE_NEW, WRITE}
    val options = java.util.Set.of[StandardOpenOption](CREATE_NEW, WRITE)
    val out = Files.newByteChannel(path, options, attributes(isPrivate, "rw-------"): _*)
    try {
      val buffer = java.nio.ByteBuffer.wrap(bytes)
      while (buffer.hasRemaining) out.write(buffer)
    } finally out.close()
  }

  /** By a put that the store refuses if the object exists, where the connector supports that. */
  private def createAtOnce(fs: FileSystem, path: Path, bytes: Array[Byte]): Boolean = {
    val option = SparkVersion.CreateIfAbsent
    val asks = fs.hasPathCapability(path, option)
    try {
      val builder = fs.createFile(path).overwrite(asks)
      if (asks) builder.must(option, true): Unit
      val out = builder.build()
      out.write(bytes)
      out.close()
      true
    } catch {
      // Refused, or done and retried; each connector has its own exception.
      case e: IOException =>
        if (!fs.exists(path)) throw e
        holds(fs, path, bytes)
    }
  }

  private def holds(fs: FileSystem, path: Path, bytes: Array[Byte]): Boolean =
    try java.util.Arrays.equals(readWhole(fs, path), bytes)
    catch { case _: FileNotFoundException => false }

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

  /** As `create`, with a mode that only its owner can read (0600), from the beginning. */
  def createPrivate(fs: FileSystem, path: Path): FSDataOutputStream =
    if (isLocal(fs)) {
      Option(local(path).getParent).foreach(Files.createDirectories(_))
      try writeLocal(local(path), Array.emptyByteArray, isPrivate = true)
      catch {
        case _: LocalFileExists => throw new FileAlreadyExistsException(s"$path exists already")
      }
      fs.append(path) // its mode stays
    } else fs.createFile(path).overwrite(false).recursive().permission(PrivateFile).build()

  /** @param isPrivate whether only its owner may read it */
  def writeWhole(
      fs: FileSystem,
      path: Path,
      bytes: Array[Byte],
      isPrivate: Boolean = false
  ): Unit = {
    val out = if (isPrivate) createPrivate(fs, path) else create(fs, path)
    try out.write(bytes)
    catch {
      case e: Throwable =>
        // On an object store closing would publish an incomplete file.
        if (out.hasCapability(CommonPathCapabilities.ABORTABLE_STREAM)) out.abort()
        throw e
    } finally out.close()
  }

  /** As `writeWhole`, but replaces an existing file. A reader may see an incomplete file meanwhile. */
  def overwrite(fs: FileSystem, path: Path, bytes: Array[Byte]): Unit = {
    val out = create(fs, path, overwrite = true)
    try out.write(bytes)
    finally out.close()
  }

  /**
   * Reads bytes of a file whose length is known, in one request. Otherwise a store would be asked for the
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

  /**
   * Whether an error in reading a file means damage, after a second check by other calls. A connection
   * that is closed early also gives an EOFException (S3A). And if a file cannot be opened, for any reason,
   * some file systems say that it does not exist (a local one, also over NFS or FUSE).
   *
   * @return
   *   a [[DamagedFileException]] if the file is shorter than `fileBytes`, a `FileNotFoundException` if
   *   it is gone; None if it was a temporary failure of the store
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
   * A temporary failure as an exception whose type does not mean damage. Hadoop's local file system throws
   * an `FSError`, which is no exception, if it cannot read.
   */
  def undecided(error: Throwable): Throwable = causeOf(error) match {
    case e @ (_: EOFException | _: FileNotFoundException | _: FSError) =>
      new IOException(e.toString, e)
    case e => e
  }

  /** The error itself, without the wrappers of another thread or a future. */
  def causeOf(error: Throwable): Throwable = error match {
    case e: ExecutionException if e.getCause != null => e.getCause
    case e => e
  }

  /**
   * Whether an error means that the bytes are gone or wrong, and not only that the store cannot be reached
   * now. For errors that have passed through `damage`.
   */
  def isDamage(e: Throwable): Boolean = e match {
    case _: DamagedFileException | _: FileNotFoundException => true
    case _ => false
  }
}
