package phoebe.store

import java.util.concurrent.TimeUnit
import java.util.concurrent.locks.ReentrantLock

import scala.concurrent.duration._
import scala.util.Try

import org.apache.hadoop.conf.Configuration
import org.apache.hadoop.fs.{FileSystem, Path}

import phoebe.files.HadoopFiles

/**
 * The directory of a store: made where there is none, refused where it is anything else or others than
 * its owner may write it, and looked at again before anything in it changes.
 *
 * @param shared
 *   whether other users may look into it, and are trusted
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
   * Opens the store, and makes it where there is none: its directories are private to their owner
   * unless others may look into the store.
   *
   * @throws StoreRefusedException
   *   if the directory is not a store and not empty, or if others than its owner may write it
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
   *   if there is something else
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

  /** Files that come to lie in a table are read as the table's, or go with its clean-up. */
  private def mayBeMade(): Unit =
    Iterator.iterate(root.getParent)(_.getParent).takeWhile(_ != null).foreach { above =>
      // Who may use a part of a bucket alone may not look above it.
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

  /** The store's marker as it was when it was opened; opens it if need be. */
  def opened(): StoreMarker = marker.getOrElse {
    prepare()
    marker.get
  }

  /** What is committed or removed lies in the store that was opened, and not in what came after it. */
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
   * As `isStill`, by a look of the last moments if there was one: the readers of a query's boundaries
   * ask side by side, and all planning waits for them. A look that hangs holds up others for a
   * second at most.
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

  /** What says that a directory is a table, or the output of a job. */
  private val TableFiles =
    Seq("_delta_log", "_SUCCESS", "_spark_metadata", ".hoodie", "metadata/version-hint.text")
}
