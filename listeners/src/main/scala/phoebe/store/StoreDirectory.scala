package phoebe.store

import java.util.concurrent.TimeUnit
import java.util.concurrent.locks.ReentrantLock

import scala.concurrent.duration._
import scala.util.Try

import org.apache.hadoop.conf.Configuration
import org.apache.hadoop.fs.{FileSystem, Path}

import phoebe.files.HadoopFiles

/**
 * The directory of a store. It is created if it does not exist. It is refused if it is not a store, or
 * if others than its owner may write to it. It is checked again before anything in it changes.
 *
 * @param shared
 *   whether other users may read and write the store, and are trusted
 */
private[phoebe] final class StoreDirectory(
    val root: Path,
    conf: Configuration,
    val shared: Boolean
) {
  import CheckpointPlace._
  import HadoopFiles._
  import StoreDirectory._

  /** Read when the store was opened. */
  @volatile private var marker: Option[StoreMarker] = None

  private val looking = new ReentrantLock
  @volatile private var seenNs = Option.empty[Long]

  def fs: FileSystem = fileSystem(root, conf)

  /**
   * Opens the store, and creates it if there is none. Its directories are private to their owner unless
   * the store is shared.
   *
   * @throws StoreRefusedException
   *   if the directory is not a store and not empty, or if others than its owner may write to it
   */
  def prepare(): Unit = {
    val store = fs
    val found = StoreMarker.read(store, root).getOrElse {
      mayBeMade()
      StoreMarker.make(store, root, !shared)
    }
    check(root, followLinks = true)
    Seq(catalog(root), data(root)).foreach { directory =>
      makeDirectory(store, directory, !shared)
      check(directory, followLinks = false)
    }
    marker = Some(found)
  }

  /**
   * Opens the store if there is one.
   *
   * @throws StoreRefusedException
   *   if the directory has other files and no marker
   */
  def open(): Boolean = {
    marker = StoreMarker.read(fs, root)
    if (marker.isEmpty && list(fs, root).nonEmpty) {
      throw new StoreRefusedException(
        s"$root is not a checkpoint store: it has no ${StoreMarker.Name}"
      )
    }
    Seq(catalog(root), data(root)).foreach(noLink)
    marker.isDefined
  }

  /** Files inside a table's directory would be read as the table's, or removed by its clean-up. */
  private def mayBeMade(): Unit =
    Iterator.iterate(root.getParent)(_.getParent).takeWhile(_ != null).foreach { above =>
      // With rights for only a part of a bucket, the directories above it are not readable.
      def isThere(sign: Path) = Try(fs.exists(sign)).getOrElse(false)
      TableFiles.map(new Path(above, _)).find(isThere).foreach { sign =>
        throw new StoreRefusedException(
          s"$root lies in a table ($sign is there): name a directory outside of it"
        )
      }
    }

  private def check(directory: Path, followLinks: Boolean): Unit = {
    if (!followLinks) noLink(directory)
    if (!shared) Rights.of(fs, directory, followLinks).flatMap(_.problem(followLinks)).foreach {
      problem =>
        throw new StoreRefusedException(
          s"$directory $problem: name a directory that only you can write (chmod 700), or set " +
            "spark.phoebe.checkpoint.sharing=all if you trust those who can"
        )
    }
  }

  private def noLink(directory: Path): Unit = if (isLink(fs, directory)) {
    throw new StoreRefusedException(s"$directory is a symbolic link, which we never make")
  }

  /** The store's marker as it was when the store was opened; opens the store if necessary. */
  def opened(): StoreMarker = marker.getOrElse {
    prepare()
    marker.get
  }

  /** Checks that the directory is still the store that was opened, before a commit or a removal. */
  def isStill(): Unit = {
    val expected = opened()
    if (!StoreMarker.read(fs, root).contains(expected)) {
      throw new StoreRefusedException(
        s"$root is not the store any more that it was (${StoreMarker.Name} is gone or another one)"
      )
    }
    Seq(catalog(root), data(root)).foreach(noLink)
  }

  /**
   * As `isStill`, but a check within the last two seconds is reused: all boundaries of a query check at
   * once, and planning waits for them. A check that hangs delays others for a second at most.
   */
  def wasJustNow(): Unit = {
    def known = seenNs.exists(System.nanoTime() - _ < JustNowNs)
    val alone = !known && looking.tryLock(JustNowNs / 2, TimeUnit.NANOSECONDS)
    try
      if (!known) {
        val began = System.nanoTime()
        isStill()
        seenNs = Some(began)
      }
    finally if (alone) looking.unlock()
  }
}

private[phoebe] object StoreDirectory {

  private val JustNowNs = 2.seconds.toNanos

  /** Files that show that a directory is a table, or the output of a job. */
  private val TableFiles =
    Seq("_delta_log", "_SUCCESS", "_spark_metadata", ".hoodie", "metadata/version-hint.text")
}
