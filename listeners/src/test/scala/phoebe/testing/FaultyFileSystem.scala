/*
 * A local directory that behaves like a remote store with troubles, as a control file says:
 *
 *   spark.hadoop.fs.faulty.impl=phoebe.testing.FaultyFileSystem     faulty:///some/local/directory
 *   spark.hadoop.fs.faulty.control=/some/local/file
 *
 * Each line of that file is a kind of request (as of SlowFileSystem, or `*`) and what becomes of
 * it: `fail`, `full` (no space is left), `eof` and `gone` (errors that look like damage), `hang`
 * (until the line is gone), or milliseconds that it takes longer. All JVMs of an application look
 * at it at each request; no file: all is well.
 */
package phoebe.testing

import java.io.{EOFException, File, FileNotFoundException, IOException}
import java.nio.file.{Files, NoSuchFileException, Path}

import scala.jdk.CollectionConverters._

import org.apache.hadoop.conf.Configuration

object FaultyFileSystem {

  /** Settings under which `faulty:` has the troubles that the file `control` tells, and no cache. */
  def configured(control: Path): Configuration = {
    val conf = new Configuration
    conf.set("fs.faulty.impl", classOf[FaultyFileSystem].getName)
    conf.set("fs.faulty.control", control.toString)
    conf.setBoolean("fs.faulty.impl.disable.cache", true)
    conf
  }
}

final class FaultyFileSystem extends SlowFileSystem("faulty") {
  private lazy val control = new File(getConf.get("fs.faulty.control"))

  private def trouble(kind: String): Option[String] =
    try Files.readAllLines(control.toPath).asScala.map(_.trim.split("\\s+")).collectFirst {
        case Array(named, what) if named == kind || named == "*" => what
      }
    catch { case _: NoSuchFileException => None }

  override protected def request(kind: String): Unit = {
    super.request(kind)
    trouble(kind) match {
      case None =>
      case Some("fail") => throw new IOException(s"the store fails to $kind")
      case Some("eof") => throw new EOFException(s"the connection ends in a $kind")
      case Some("gone") => throw new FileNotFoundException(s"the store cannot $kind")
      case Some("full") => throw new IOException("No space left on device")
      case Some("hang") => while (trouble(kind).contains("hang")) Thread.sleep(100)
      case Some(ms) => Thread.sleep(ms.toLong)
    }
  }
}
