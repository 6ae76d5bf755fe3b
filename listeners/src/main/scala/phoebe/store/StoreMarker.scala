package phoebe.store

import java.io.{FileNotFoundException, IOException}
import java.nio.charset.StandardCharsets.UTF_8

import scala.annotation.tailrec
import scala.util.Try

import org.apache.hadoop.fs.{FileSystem, Path}

import phoebe.Json
import phoebe.files.HadoopFiles

/** Why a directory is not used as a store; the message is one line and says what to do. */
private[phoebe] final class StoreRefusedException(message: String) extends IOException(message)

/**
 * The file that makes a directory a store. It is created together with the store and never later: in a
 * directory without it nothing is read, written or removed.
 *
 * @param storeId
 *   32 hexadecimal digits; another id at the same place is another store
 */
final case class StoreMarker(format: Int, storeId: String) {
  def encode: Array[Byte] = Json.line("format" -> format, "store_id" -> storeId).getBytes(UTF_8)
}

object StoreMarker {
  import HadoopFiles._

  val Name = "phoebe-store.json"
  val Format = 1

  /** How long another driver may take to write the marker: its file may appear before its bytes. */
  private val WriteMs = 2000L
  private val PauseMs = 100L

  def path(root: Path): Path = new Path(root, Name)

  /**
   * The marker; None if there is no marker.
   *
   * @throws StoreRefusedException
   *   if its format is not known, or it is damaged
   * @throws java.io.IOException
   *   if the store cannot be read now
   */
  def read(fs: FileSystem, root: Path): Option[StoreMarker] = {
    @tailrec def read(untilNs: Long): Option[StoreMarker] = {
      val bytes =
        try Some(readWhole(fs, path(root)))
        catch { case _: FileNotFoundException => None }
      bytes.map(decode) match {
        case None => None
        case Some(Some(marker)) => Some(marker)
        case _ if System.nanoTime() < untilNs =>
          Thread.sleep(PauseMs)
          read(untilNs)
        case _ =>
          throw new StoreRefusedException(s"${path(root)} is damaged: name another directory")
      }
    }
    val found = read(System.nanoTime() + WriteMs * 1000000)
    found.filter(_.format != Format).foreach { marker =>
      throw new StoreRefusedException(
        s"$root was made by a newer phoebe_spark (store format ${marker.format}, this one knows " +
          s"$Format): upgrade phoebe_spark, or name another directory"
      )
    }
    found
  }

  private def decode(bytes: Array[Byte]): Option[StoreMarker] = Try {
    val node = Json.read(new String(bytes, UTF_8))
    StoreMarker(node.get("format").asInt, node.get("store_id").asText)
  }.toOption.filter(_.format > 0)

  /**
   * Makes the directory `root` a store, if it is empty. If several drivers do so at once, one of them
   * creates the marker, and all of them get that marker.
   *
   * @throws StoreRefusedException
   *   if it is not empty
   */
  def make(fs: FileSystem, root: Path, isPrivate: Boolean): StoreMarker = {
    makeDirectory(fs, root, isPrivate)
    val foreign = list(fs, root).map(_.getPath.getName).filterNot(isOwn)
    // Another driver may have made the store since the marker was last read.
    if (foreign.isEmpty) createWhole(
      fs,
      path(root),
      StoreMarker(Format, randomHex(32)).encode,
      isPrivate
    ): Unit
    read(fs, root).getOrElse {
      throw new StoreRefusedException(
        if (foreign.isEmpty) s"$root: its $Name was removed just now: submit again"
        else
          s"$root is not empty and has no $Name, so what is in it is not ours (or is a store of " +
            "an early version, which you may delete): name a new or an empty directory"
      )
    }
  }

  private def isOwn(name: String): Boolean =
    name == Name || name.startsWith(s"$Name.") && isTemporary(name)
}
