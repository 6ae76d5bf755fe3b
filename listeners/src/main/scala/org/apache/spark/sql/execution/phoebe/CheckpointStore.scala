package org.apache.spark.sql.execution.phoebe

import java.io.{EOFException, FileNotFoundException, InterruptedIOException, IOException}
import java.nio.channels.ClosedByInterruptException
import java.nio.charset.StandardCharsets.UTF_8
import java.util.UUID

import scala.util.control.NonFatal

import org.apache.hadoop.conf.Configuration
import org.apache.hadoop.fs.{
  FileSystem,
  FSDataInputStream,
  FSDataOutputStream,
  LocalFileSystem,
  Path
}
import org.apache.hadoop.fs.permission.FsPermission

import org.apache.spark.internal.Logging
import org.apache.spark.util.Utils

/**
 * The checkpoint store's layout on any Hadoop file system:
 *
 * {{{
 * <root>/<fingerprint>/<uuid>/m<map index>-<map id>.data    Spark's shuffle file of that map task
 *                             m<map index>-<map id>.index   lengths and checksums (MapFileIndex)
 *                             manifest.json                 written last: the commit
 *                             tombstone.json                damage was found: never restored again
 *                             reader-<application>.json     that application restored it
 * }}}
 *
 * Every writer has a directory of its own (the uuid), so drivers that write the same fingerprint at
 * once cannot meet; whichever manifests appear are whole.
 */
private[phoebe] object CheckpointStore extends Logging {
  val ManifestName = "manifest.json"
  val TombstoneName = "tombstone.json"

  def dataName(mapIndex: Int, mapId: Long): String = s"m$mapIndex-$mapId.data"
  def indexName(mapIndex: Int, mapId: Long): String = s"m$mapIndex-$mapId.index"

  /**
   * The file system of a path. A local one is used without Hadoop's own checksum files: the index
   * holds checksums of every chunk already.
   */
  def fileSystem(path: Path, conf: Configuration): FileSystem = path.getFileSystem(conf) match {
    case local: LocalFileSystem => local.getRawFileSystem
    case other => other
  }

  /**
   * Creates a file that must not exist yet. This overload leaves permissions to the directory:
   * the others fork a `chmod` per file on a local file system without Hadoop's native library.
   */
  def create(fs: FileSystem, path: Path): FSDataOutputStream =
    fs.create(
      path,
      false,
      1 << 16,
      fs.getDefaultReplication(path),
      fs.getDefaultBlockSize(path),
      null
    )

  def writeWhole(fs: FileSystem, path: Path, bytes: Array[Byte]): Unit = {
    val out = create(fs, path)
    try out.write(bytes)
    finally out.close()
  }

  /** @throws DamagedFileException if the file ends early or is longer than `limit` */
  def readWhole(fs: FileSystem, path: Path, limit: Long = 256L << 20): Array[Byte] = {
    val length = fs.getFileStatus(path).getLen
    if (length > limit) throw new DamagedFileException(s"$path: $length bytes, more than it can be")
    val bytes = new Array[Byte](length.toInt)
    val in = fs.open(path)
    try in.readFully(0, bytes)
    catch {
      case e: java.io.EOFException =>
        throw new DamagedFileException(s"$path: ends early (${e.getMessage})")
    } finally in.close()
    bytes
  }

  def readIndex(fs: FileSystem, directory: Path, map: MapFile): MapFileIndex = {
    val path = new Path(directory, indexName(map.mapIndex, map.mapId))
    val encoded = readWhole(fs, path)
    map.indexCrc.foreach { expected =>
      if (encoded.length < 4 || MapFileIndex.crcOfEncoded(encoded) != expected) {
        throw new DamagedFileException(s"$path: not the index that was committed")
      }
    }
    MapFileIndex.decode(encoded, path.toString)
  }

  /** Says that a committed checkpoint is damaged, so that no later run meets it. Never throws. */
  def writeTombstone(directory: Path, conf: Configuration, why: String): Unit =
    try {
      val fs = fileSystem(directory, conf)
      val json = Json.line("why" -> why, "time" -> System.currentTimeMillis())
      writeWhole(fs, new Path(directory, TombstoneName), json.getBytes(UTF_8))
    } catch {
      case _: org.apache.hadoop.fs.FileAlreadyExistsException => // someone else said so already
      case NonFatal(e) =>
        logWarning(s"phoebe: could not mark the damaged checkpoint $directory: $e")
    }

  /**
   * Reads every byte of one map task's files and holds it against the index.
   *
   * @return
   *   what is damaged, if anything
   * @throws java.io.IOException
   *   if the store cannot be read, which says nothing about the checkpoint
   */
  def verify(directory: Path, conf: Configuration, map: MapFile, dataBytes: Long): Option[String] =
    try {
      val fs = fileSystem(directory, conf)
      val index = readIndex(fs, directory, map)
      val path = new Path(directory, dataName(map.mapIndex, map.mapId))
      if (index.dataBytes != dataBytes)
        Some(s"$path: the index says ${index.dataBytes} bytes, the manifest $dataBytes")
      else if (dataBytes == 0) None
      else {
        val length = fs.getFileStatus(path).getLen
        if (length != dataBytes) Some(s"$path: $length bytes, $dataBytes were committed")
        else {
          val reader = new MapFileReader(fs, path, index)
          try index.lengths.indices.foreach(reader.skim)
          finally reader.close()
          None
        }
      }
    } catch {
      case e: DamagedFileException => Some(e.getMessage)
      case e: FileNotFoundException => Some(s"a file is missing: ${e.getMessage}")
    }

  /** What means that the bytes are gone or wrong, as against a store that cannot be reached now. */
  def isDamage(e: Throwable): Boolean = e match {
    case _: DamagedFileException | _: FileNotFoundException => true
    case _ => false
  }
}

/** Which files a map task's copy consists of; `indexCrc` as the manifest has it, if known. */
private[phoebe] final case class MapFile(mapIndex: Int, mapId: Long, indexCrc: Option[Int])

/** A committed checkpoint that the store holds. */
private[phoebe] final case class CommittedCheckpoint(directory: Path, manifest: Manifest)

/**
 * The driver's view of a store: what was committed before this application started (read once, in
 * the background, by one listing), new attempt directories, commits and removals.
 *
 * @param user whose checkpoints may be restored: another user's never are
 */
private[phoebe] final class CheckpointStore(val root: Path, conf: Configuration, user: String)
    extends Logging {
  import CheckpointStore._

  private def fs: FileSystem = fileSystem(root, conf)

  /**
   * The newest whole checkpoint of each fingerprint, tombstoned and foreign ones left out.
   *
   * A directory that cannot be read costs that checkpoint only.
   */
  def readIndex(): Map[String, CommittedCheckpoint] = {
    val store = fs
    val manifests = Option(store.globStatus(new Path(root, s"*/*/$ManifestName"))).toSeq.flatten
    val buried = Option(store.globStatus(new Path(root, s"*/*/$TombstoneName"))).toSeq.flatten.map(
      _.getPath.getParent
    ).toSet
    manifests
      .map(_.getPath)
      .filterNot(path => buried(path.getParent))
      .flatMap { path =>
        try {
          val manifest = Manifest.decode(readWhole(store, path), path.toString)
          val named = path.getParent.getParent.getName
          if (manifest.user != user) None
          else if (manifest.fingerprint != named) {
            logWarning(
              s"phoebe: checkpoint $path is of another fingerprint than its directory says; left alone"
            )
            None
          } else Some(CommittedCheckpoint(path.getParent, manifest))
        } catch {
          case NonFatal(e) =>
            logWarning(
              s"phoebe: checkpoint $path cannot be used: ${e.getMessage}; its boundary will be computed"
            )
            None
        }
      }
      .groupMapReduce(_.manifest.fingerprint)(identity)((a, b) =>
        if (a.manifest.createdAtMs >= b.manifest.createdAtMs) a else b
      )
  }

  /** A fresh directory for one attempt to write `fingerprint`; made by the first task that writes. */
  def newAttempt(fingerprint: String): Path =
    new Path(new Path(root, fingerprint), UUID.randomUUID().toString)

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
  def commit(directory: Path, manifest: Manifest): Unit = {
    val store = fs
    val target = new Path(directory, ManifestName)
    val bytes = Manifest.encode(manifest)
    store.getUri.getScheme match {
      case "file" | "hdfs" | "viewfs" =>
        val temporary = new Path(directory, s".$ManifestName.tmp")
        writeWhole(store, temporary, bytes)
        if (!store.rename(temporary, target))
          throw new IOException(s"could not rename $temporary to $target")
      case _ => writeWhole(store, target, bytes)
    }
  }

  /**
   * Says that an application reads a checkpoint, so that nobody else removes it.
   *
   * @return
   *   false if it was removed meanwhile
   */
  def pin(checkpoint: CommittedCheckpoint, appId: String): Boolean = {
    val store = fs
    val path = new Path(checkpoint.directory, readerName(appId))
    if (!store.exists(path)) {
      val who = Json.line("host" -> Utils.localHostName(), "pid" -> ProcessHandle.current().pid())
      writeWhole(store, path, who.getBytes(UTF_8))
    }
    store.exists(new Path(checkpoint.directory, ManifestName))
  }

  /**
   * Removes a checkpoint that this application wrote or restored, unless another one may still need
   * it: its writer (which has freed its local files) or any reader that is not known to be dead. The
   * manifest goes first, so whoever pins it from then on sees that it is gone.
   */
  def release(directory: Path, appId: String): Unit = quietly(directory) {
    val store = fs
    store.delete(new Path(directory, readerName(appId)), false)
    val manifest =
      Manifest.decode(readWhole(store, new Path(directory, ManifestName)), s"$directory")
    val writerNeedsIt = manifest.appId != appId && !isDead(manifest.host, manifest.pid)
    if (!writerNeedsIt && !hasReaders(directory)) {
      store.delete(new Path(directory, ManifestName), false)
      if (!hasReaders(directory)) remove(directory)
    }
  }

  private def hasReaders(directory: Path): Boolean =
    Option(fs.globStatus(new Path(directory, readerName("*")))).toSeq.flatten.exists { status =>
      val who = Json.read(new String(readWhole(fs, status.getPath), UTF_8))
      !isDead(who.path("host").asText, who.path("pid").asLong)
    }

  /** Only a process of this machine can be known to be dead. */
  private def isDead(host: String, pid: Long): Boolean =
    host == Utils.localHostName() && !ProcessHandle.of(pid).map[Boolean](_.isAlive).orElse(false)

  private def readerName(appId: String): String = s"reader-$appId.json"

  /** Removes an attempt and whatever is in it. */
  def remove(directory: Path): Unit = quietly(directory) {
    val store = fs
    store.delete(directory, true)
    val parent = directory.getParent
    if (store.exists(parent) && store.listStatus(parent).isEmpty) store.delete(parent, false)
  }

  private def quietly(directory: Path)(body: => Unit): Unit =
    try body
    catch {
      case _: FileNotFoundException =>
      case NonFatal(e) => logWarning(s"phoebe: could not remove $directory: $e")
    }
}

/**
 * Reads the segments of one map task's data file, each chunk verified before anyone sees it.
 *
 * Not thread safe; segments are best asked for in ascending order (no seeks then).
 */
private[phoebe] final class MapFileReader(fs: FileSystem, path: Path, index: MapFileIndex)
    extends java.io.Closeable {
  private var in: FSDataInputStream = _
  private var buffer: Array[Byte] = _

  /** Loads chunk `chunk` of a segment into the buffer and returns its length. */
  private def load(reduceId: Int, chunk: Int): Int = {
    val start = chunk.toLong * index.chunkBytes
    val size = math.min(index.chunkBytes.toLong, index.lengths(reduceId) - start).toInt
    if (buffer == null || buffer.length < size) buffer = new Array[Byte](size)
    fetch(index.offsets(reduceId) + start, size)
    val position = index.offsets(reduceId) + start
    if (MapFileIndex.crcOf(buffer, size) != index.crcs(index.firstChunks(reduceId) + chunk)) {
      throw new DamagedFileException(
        s"$path: checksum mismatch in bytes $position to ${position + size}"
      )
    }
    size
  }

  /** Reads bytes into the buffer; a store that stumbles is asked again, a missing byte is damage. */
  private def fetch(position: Long, size: Int, attempt: Int = 1): Unit =
    try {
      if (in == null) in = fs.open(path, 1 << 16)
      if (in.getPos != position) in.seek(position)
      in.readFully(buffer, 0, size)
    } catch {
      case _: EOFException =>
        throw new DamagedFileException(s"$path: ends before byte ${position + size}")
      case e: FileNotFoundException => throw e
      case e @ (_: InterruptedIOException | _: ClosedByInterruptException) => throw e
      case _: IOException if attempt < MapFileReader.Attempts =>
        close()
        Thread.sleep(MapFileReader.PauseMs * attempt)
        fetch(position, size, attempt + 1)
    }

  /** Verifies a segment without handing it out. */
  def skim(reduceId: Int): Unit =
    (0 until MapFileIndex.chunks(index.lengths(reduceId), index.chunkBytes)).foreach(load(
      reduceId,
      _
    ))

  /** One reduce partition's bytes as written; valid until the next call. */
  def segment(reduceId: Int): java.io.InputStream = new java.io.InputStream {
    private val chunks = MapFileIndex.chunks(index.lengths(reduceId), index.chunkBytes)
    private var next = 0
    private var position = 0
    private var limit = 0

    private def fill(): Boolean = {
      while (position == limit && next < chunks) {
        limit = load(reduceId, next)
        position = 0
        next += 1
      }
      position < limit
    }

    override def read(): Int =
      if (!fill()) -1
      else {
        position += 1
        buffer(position - 1) & 0xff
      }

    override def read(target: Array[Byte], offset: Int, length: Int): Int =
      if (length == 0) 0
      else if (!fill()) -1
      else {
        val size = math.min(length, limit - position)
        System.arraycopy(buffer, position, target, offset, size)
        position += size
        size
      }

    override def available(): Int = limit - position
  }

  override def close(): Unit = if (in != null) {
    in.close()
    in = null
  }
}

private[phoebe] object MapFileReader {
  private val Attempts = 3
  private val PauseMs = 200L
}
