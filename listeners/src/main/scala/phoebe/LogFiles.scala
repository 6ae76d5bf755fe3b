package phoebe

import java.io.{InputStream, IOException}
import java.nio.charset.StandardCharsets.UTF_8
import java.util.{List => JList}

import scala.collection.mutable
import scala.jdk.CollectionConverters._

import org.apache.hadoop.conf.Configuration
import org.apache.hadoop.fs.{FileStatus, Path}

import org.apache.spark.{Partition, TaskContext}
import org.apache.spark.api.java.{JavaRDD, JavaSparkContext}
import org.apache.spark.broadcast.Broadcast
import org.apache.spark.rdd.RDD
import org.apache.spark.util.SerializableConfiguration

/**
 * Event logs as `phoebe ingest` reads them through Spark: on any file system that Hadoop knows, with
 * the session's settings and tokens, each application's files by one task, in pieces, whatever their
 * size. Called from Python (`phoebe_spark.ingest.remote_logs`), which no data source of Spark's can give this:
 * `binaryFiles` holds a file in memory and ends at 2 GiB.
 */
class LogFiles {
  private var hadoop: Broadcast[SerializableConfiguration] = _

  /**
   * The files at and below `uri`, hidden ones left out, as `[uri, URI of its rolling log's directory or
   * "", modified (ms)]`. Throws `IOException`.
   */
  def list(context: JavaSparkContext, uri: String): JList[Array[String]] = {
    val root = new Path(uri)
    val fs = root.getFileSystem(context.hadoopConfiguration())
    val found = mutable.Buffer.empty[Array[String]]
    def children(dir: Path) = fs.listStatus(dir).sortBy(_.getPath.getName).toSeq
      .filterNot(child => Hidden.exists(c => child.getPath.getName.startsWith(c)))
    def add(file: FileStatus, directory: String) = found += Array(
      file.getPath.toString,
      directory,
      file.getModificationTime.toString
    )
    def look(status: FileStatus): Unit =
      if (!status.isDirectory) add(status, "")
      else if (status.getPath.getName.startsWith("eventlog_v2_")) {
        children(status.getPath).filterNot(_.isDirectory).foreach(add(_, status.getPath.toString))
      } else children(status.getPath).foreach(look)
    look(fs.getFileStatus(root))
    found.asJava
  }

  /**
   * One partition for each group of files: for each file a frame `F<uri>`, its bytes in frames
   * `D<bytes>`, and a frame `E<message>` where it cannot be read (to its end).
   *
   * @param mostBytes of each file, from its beginning
   */
  def read(
      context: JavaSparkContext,
      groups: JList[JList[String]],
      mostBytes: Long
  ): JavaRDD[Array[Byte]] = synchronized {
    if (hadoop == null) {
      hadoop = context.sc.broadcast(new SerializableConfiguration(context.hadoopConfiguration()))
    }
    val files = groups.asScala.map(_.asScala.toArray).toArray
    JavaRDD.fromRDD(new LogFilesRDD(context, files, hadoop, mostBytes))
  }

  private val Hidden = Seq(".", "_")
}

private final class LogFilesPartition(override val index: Int, val uris: Array[String])
    extends Partition

private final class LogFilesRDD(
    @transient context: JavaSparkContext,
    @transient groups: Array[Array[String]],
    hadoop: Broadcast[SerializableConfiguration],
    mostBytes: Long
) extends RDD[Array[Byte]](context.sc, Nil) {

  override protected def getPartitions: Array[Partition] =
    groups.zipWithIndex.map { case (uris, index) => new LogFilesPartition(index, uris) }

  override def compute(split: Partition, task: TaskContext): Iterator[Array[Byte]] = {
    val conf = hadoop.value.value
    val open = new Array[InputStream](1)
    task.addTaskCompletionListener[Unit](_ => Option(open(0)).foreach(_.close()))
    split.asInstanceOf[LogFilesPartition].uris.iterator.flatMap { uri =>
      Iterator.single(LogFilesRDD.frame('F', uri)) ++ pieces(uri, conf, open)
    }
  }

  /** @param open where the stream that is being read is kept, to be closed with the task */
  private def pieces(
      uri: String,
      conf: Configuration,
      open: Array[InputStream]
  ): Iterator[Array[Byte]] =
    new Iterator[Array[Byte]] {
      private var input: InputStream = _
      private var left = mostBytes
      private var following: Array[Byte] = advance()

      override def hasNext: Boolean = following != null

      override def next(): Array[Byte] = {
        val piece = following
        following = if (piece(0) == 'E') null else advance()
        piece
      }

      private def advance(): Array[Byte] =
        try {
          if (input == null) {
            val path = new Path(uri)
            input = path.getFileSystem(conf).open(path)
            open(0) = input
          }
          val piece = input.readNBytes(math.min(left, LogFilesRDD.PieceBytes.toLong).toInt)
          left -= piece.length
          if (piece.isEmpty) {
            input.close()
            null
          } else 'D'.toByte +: piece
        } catch { case e: IOException => LogFilesRDD.frame('E', e.toString) }
    }
}

private object LogFilesRDD {
  val PieceBytes: Int = 1 << 20

  def frame(kind: Char, text: String): Array[Byte] = kind.toByte +: text.getBytes(UTF_8)
}
