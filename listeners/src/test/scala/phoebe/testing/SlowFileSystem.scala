/*
 * A local directory that behaves like a remote store: every request takes a while and is counted.
 *
 *   spark.hadoop.fs.slow.impl=phoebe.testing.SlowFileSystem      slow:///some/local/directory
 *
 * What counts as a request is what costs one on an object store: looking at a path, listing, a
 * file written (at close), a ranged read (the first read after opening or seeking, and every
 * positioned read), a rename, a removal. Opening a file looks at it first, unless its status is
 * handed over through `openFile`.
 */
package phoebe.testing

import java.io.FilterOutputStream
import java.net.URI
import java.nio.file.{FileAlreadyExistsException, Files}
import java.util.EnumSet
import java.util.concurrent.{CompletableFuture, ConcurrentHashMap, CountDownLatch}
import java.util.concurrent.atomic.{AtomicInteger, LongAdder}

import org.apache.hadoop.conf.Configuration
import org.apache.hadoop.fs._
import org.apache.hadoop.fs.impl.FutureDataInputStreamBuilderImpl
import org.apache.hadoop.fs.permission.FsPermission
import org.apache.hadoop.util.{LambdaUtils, Progressable}

class SlowFileSystem(scheme: String) extends FilterFileSystem(new SlowFileSystem.Local(scheme)) {
  def this() = this("slow")

  /** Every request comes by here before it is answered. */
  protected def request(kind: String): Unit = SlowRequests.request(kind)

  override def open(path: Path, bufferSize: Int): FSDataInputStream = {
    request("status")
    stream(path, bufferSize)
  }

  /** A filter would hand this to the files themselves, past everything here. */
  override def openFile(path: Path): FutureDataInputStreamBuilder =
    new FutureDataInputStreamBuilderImpl(this, path) {
      override def getThisBuilder: FutureDataInputStreamBuilder = this

      override def build(): CompletableFuture[FSDataInputStream] =
        LambdaUtils.eval(
          new CompletableFuture[FSDataInputStream],
          () => {
            if (getStatus == null) request("status")
            stream(path, getBufferSize)
          }
        )
    }

  private def stream(path: Path, bufferSize: Int) =
    new FSDataInputStream(new SlowFileSystem.Input(fs.open(path, bufferSize), request))

  override def create(
      path: Path,
      permission: FsPermission,
      overwrite: Boolean,
      bufferSize: Int,
      replication: Short,
      blockSize: Long,
      progress: Progressable
  ): FSDataOutputStream = {
    val out = fs.create(path, permission, overwrite, bufferSize, replication, blockSize, progress)
    new FSDataOutputStream(new SlowFileSystem.Output(out, request), null)
  }

  /** A builder ends here as well; a filter would hand it to the files themselves. */
  override def createFile(path: Path): FSDataOutputStreamBuilder[_, _] =
    FileSystem.createDataOutputStreamBuilder(this, path).create().overwrite(true)

  override def create(
      path: Path,
      permission: FsPermission,
      flags: EnumSet[CreateFlag],
      bufferSize: Int,
      replication: Short,
      blockSize: Long,
      progress: Progressable,
      checksum: Options.ChecksumOpt
  ): FSDataOutputStream = {
    val overwrite = flags.contains(CreateFlag.OVERWRITE)
    create(path, permission, overwrite, bufferSize, replication, blockSize, progress)
  }

  /** As an object store it knows neither owners nor modes. */
  override def hasPathCapability(path: Path, capability: String): Boolean =
    capability != CommonPathCapabilities.FS_PERMISSIONS &&
      super.hasPathCapability(path, capability)

  override def getFileStatus(path: Path): FileStatus = {
    request("status")
    super.getFileStatus(path)
  }

  override def listStatus(path: Path): Array[FileStatus] = {
    request("list")
    super.listStatus(path)
  }

  override def listStatusIterator(path: Path): RemoteIterator[FileStatus] = {
    request("list")
    super.listStatusIterator(path)
  }

  override def listLocatedStatus(path: Path): RemoteIterator[LocatedFileStatus] = {
    request("list")
    super.listLocatedStatus(path)
  }

  override def mkdirs(path: Path, permission: FsPermission): Boolean = {
    request("mkdirs")
    super.mkdirs(path, permission)
  }

  override def mkdirs(path: Path): Boolean = {
    request("mkdirs")
    super.mkdirs(path)
  }

  override def rename(from: Path, to: Path): Boolean = {
    request("rename")
    super.rename(from, to)
  }

  override def delete(path: Path, recursive: Boolean): Boolean = {
    request("delete")
    super.delete(path, recursive)
  }
}

object SlowFileSystem {

  /** Settings under which `slow:` is one. */
  def configured: Configuration = {
    val conf = new Configuration
    conf.set("fs.slow.impl", classOf[SlowFileSystem].getName)
    conf
  }

  /** The files themselves: no checksum files beside them, paths under a scheme of their own. */
  private[testing] final class Local(scheme: String) extends RawLocalFileSystem {
    override def getUri: URI = URI.create(s"$scheme:///")
    override def getScheme: String = scheme

    /** As on HDFS: a file is not put over another one. */
    override def rename(from: Path, to: Path): Boolean =
      if (!pathToFile(from).isFile) super.rename(from, to)
      else
        try {
          Files.createLink(pathToFile(to).toPath, pathToFile(from).toPath)
          Files.delete(pathToFile(from).toPath)
          true
        } catch { case _: FileAlreadyExistsException => false }
  }

  private[testing] final class Output(out: FSDataOutputStream, request: String => Unit)
      extends FilterOutputStream(out) {
    private var closed = false
    override def write(bytes: Array[Byte], offset: Int, length: Int): Unit =
      out.write(bytes, offset, length)
    override def close(): Unit = if (!closed) {
      closed = true
      request("write")
      super.close()
    }
  }

  private[testing] final class Input(in: FSDataInputStream, request: String => Unit)
      extends FSInputStream {
    private var streaming = false

    /** The request that brings what follows the current position. */
    private def next(): Unit = if (!streaming) {
      streaming = true
      request("read")
    }

    override def read(): Int = { next(); in.read() }
    override def read(bytes: Array[Byte], offset: Int, length: Int): Int = {
      next()
      in.read(bytes, offset, length)
    }
    override def read(position: Long, bytes: Array[Byte], offset: Int, length: Int): Int = {
      request("read")
      in.read(position, bytes, offset, length)
    }
    override def readFully(position: Long, bytes: Array[Byte], offset: Int, length: Int): Unit = {
      request("read")
      in.readFully(position, bytes, offset, length)
    }
    override def seek(position: Long): Unit = if (position != in.getPos) {
      streaming = false
      in.seek(position)
    }
    override def getPos: Long = in.getPos
    override def seekToNewSource(position: Long): Boolean = false
    override def available(): Int = in.available()
    override def close(): Unit = in.close()
  }
}

/** The requests of this JVM to all slow file systems, and how long each takes. */
object SlowRequests {
  private val counts = new ConcurrentHashMap[String, LongAdder]
  private val inFlight = new AtomicInteger
  private val most = new AtomicInteger
  @volatile private var latencyMs = 0L
  @volatile private var writesGo = new CountDownLatch(0)

  def setLatencyMs(ms: Long): Unit = latencyMs = ms

  /** From now on no file is written whole until `releaseWrites`. */
  def holdWrites(): Unit = writesGo = new CountDownLatch(1)

  def releaseWrites(): Unit = writesGo.countDown()

  def reset(): Unit = {
    counts.clear()
    most.set(inFlight.get)
  }

  /** Since the last reset: `status`, `list`, `read`, `write`, `mkdirs`, `rename` or `delete`. */
  def count(kind: String): Long = Option(counts.get(kind)).fold(0L)(_.sum)

  def total: Long = counts.values.stream.mapToLong(_.sum).sum

  /** The most requests that were under way at once since the last reset. */
  def mostAtOnce: Int = most.get

  private[testing] def request(kind: String): Unit = {
    counts.computeIfAbsent(kind, _ => new LongAdder).increment()
    val now = inFlight.incrementAndGet()
    most.accumulateAndGet(now, math.max(_, _))
    try {
      if (latencyMs > 0) Thread.sleep(latencyMs)
      if (kind == "write") writesGo.await()
    } finally inFlight.decrementAndGet()
  }
}
