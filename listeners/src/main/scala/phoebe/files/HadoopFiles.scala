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

/** How single files are made and read, on any Hadoop file system. */
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

  /** Whether a request to the store costs next to nothing, so that many small ones are fine. */
  def isLocal(fs: FileSystem): Boolean = isLocal(fs.getUri)

  /** By its name alone: to make a file system may take long. */
  def isLocal(uri: URI): Boolean = uri.getScheme == "file"

  def randomHex(digits: Int): String = UUID.randomUUID().toString.replace("-", "").take(digits)

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
   * Makes a directory if it is not there. A private one (0700) is so from the first moment on; the
   * directories above it are made as others are.
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

  /** Names of files that become others by a rename or a link: what is left of one means nothing. */
  def isTemporary(name: String): Boolean = Temporary.pattern.matcher(name).matches
  private val Temporary = ".+\\.[0-9a-f]{16}\\.tmp".r

  /**
   * Creates a file with all its bytes, if none is there: of several that do so at once, only one does.
   * Nobody sees half of it, but where a local file system knows no hard links.
   *
   * @return
   *   whether it was this call; then it holds these bytes, which are to be nobody else's
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
      // A rename that was done may be reported as failed, when it is asked for again.
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

  /** By a put that the store refuses where there is an object, as far as its connector can ask so. */
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
      // Refused, or done and asked for again; each connector has an exception of its own.
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

  /** As `create`, for its owner's eyes only from the first moment on. */
  def createPrivate(fs: FileSystem, path: Path): FSDataOutputStream =
    if (isLocal(fs)) {
      Option(local(path).getParent).foreach(Files.createDirectories(_))
      try writeLocal(local(path), Array.emptyByteArray, isPrivate = true)
      catch {
        case _: LocalFileExists => throw new FileAlreadyExistsException(s"$path exists already")
      }
      fs.append(path) // its mode stays
    } else fs.createFile(path).overwrite(false).recursive().permission(PrivateFile).build()

  /** @param isPrivate whether it is for its owner's eyes only */
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
