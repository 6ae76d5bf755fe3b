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
 * The file that makes a directory a store of ours. It is created when the store is, and only there: a
 * directory without it may be anybody's, and nothing in it is read, written or removed.
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

  /** How long another driver may take to write the marker, where its file appears before its bytes. */
  private val WriteMs = 2000L
  private val PauseMs = 100L

  def path(root: Path): Path = new Path(root, Name)

  /**
   * None: there is none.
   *
   * @throws StoreRefusedException
   *   if it is of a format that is not known, or none at all
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
   * Makes the directory `root` a store, if nothing is in it. Of several that do so at once one makes
   * it, and all of them get that one's marker.
   *
   * @throws StoreRefusedException
   *   if it is not empty
   */
  def make(fs: FileSystem, root: Path, isPrivate: Boolean): StoreMarker = {
    makeDirectory(fs, root, isPrivate)
    val foreign = list(fs, root).map(_.getPath.getName).filterNot(isOwn)
    // Between the look for a marker and this listing another driver may have made the store.
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
