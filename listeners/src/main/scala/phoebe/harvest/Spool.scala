package phoebe.harvest

import java.nio.charset.StandardCharsets.UTF_8

import org.apache.hadoop.conf.Configuration
import org.apache.hadoop.fs.{FileSystem, FSDataOutputStream, Path}

import phoebe.files.HadoopFiles

/**
 * A file of protocol lines under `<home>/spool`, written when there is no companion to write to;
 * `phoebe ingest` reads it. On a local disk what was flushed survives a killed driver; on an object
 * store the file appears when it is closed. Plans hold literals, so it is for its owner's eyes only.
 */
final private[phoebe] class Spool private (val path: Path, out: FSDataOutputStream) {
  def write(line: String): Unit = {
    out.write(line.getBytes(UTF_8))
    out.write('\n')
  }

  def flush(): Unit = out.hflush()

  def close(): Unit = out.close()
}

private[phoebe] object Spool {

  /** Throws `IOException` when the place cannot be written. */
  def open(home: Path, appId: String, attempt: String, hadoop: Configuration): Spool = {
    val stem = if (attempt.isEmpty) appId else s"${appId}_$attempt"
    val dir = new Path(home, "spool")
    // Hadoop's checksummed local file system would keep the last lines back until it is closed.
    val fs: FileSystem = HadoopFiles.fileSystem(dir, hadoop)
    HadoopFiles.makeDirectory(fs, dir, isPrivate = true)
    val first = new Path(dir, s"$stem.ndjson")
    val path =
      if (fs.exists(first)) new Path(dir, s"$stem-${HadoopFiles.randomHex(8)}.ndjson") else first
    new Spool(path, HadoopFiles.createPrivate(fs, path))
  }
}
