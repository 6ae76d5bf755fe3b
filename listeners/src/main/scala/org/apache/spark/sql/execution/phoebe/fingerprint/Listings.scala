/*
 * Identity of the files that a scan reads: path, length, modification time and partition values,
 * as Spark has listed them. Digests are kept for as long as the listing that they are of, so a table
 * of 100,000 files is digested once and not on every pass.
 */
package org.apache.spark.sql.execution.phoebe.fingerprint

import java.io.FileNotFoundException
import java.lang.ref.{ReferenceQueue, WeakReference}
import java.util.concurrent.{Callable, ConcurrentHashMap}

import scala.jdk.CollectionConverters._
import scala.util.Try
import scala.util.control.NonFatal

import org.apache.hadoop.conf.Configuration
import org.apache.hadoop.fs.{FileStatus, Path}
import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.expressions.{
  Expression,
  FileSourceConstantMetadataAttribute,
  FileSourceMetadataAttribute
}
import org.apache.spark.sql.execution.FileSourceScanExec
import org.apache.spark.sql.execution.datasources.{FileIndex, InMemoryFileIndex}
import org.apache.spark.sql.execution.phoebe.fingerprint.ExpressionText.{literalText, Env}
import org.apache.spark.sql.types.StructType
import org.apache.spark.util.ThreadUtils

/**
 * One listing of files, digested once. Compared by identity: the same listing is the same object.
 *
 * @param root
 *   the relation's root paths, joined by commas, for people
 * @param files
 *   the listing's own records (path, length in bytes, modification time in ms since the epoch); none
 *   where files are never written twice
 * @param source
 *   the index that it was taken from, or null when nobody holds it any more
 * @param current
 *   whether that index has not been refreshed since
 */
final class Listing private[fingerprint] (
    private[fingerprint] val hash: String,
    val root: String,
    val files: Array[FileStatus],
    private[fingerprint] val source: () => AnyRef,
    private[fingerprint] val current: () => Boolean
) {
  lazy val bytes: Long = files.iterator.map(_.getLen).sum
  lazy val newestMs: Option[Long] = files.iterator.map(_.getModificationTime).maxOption
}

private[fingerprint] object Listings {

  /**
   * What Spark's own listing gives after static pruning.
   *
   * Where the index shows its snapshot, nothing is listed for a digest that is known. A scan lists when
   * it runs; that it then lists the same is made sure of before a commit (`Listing.current`).
   */
  def apply(scan: FileSourceScanExec, text: ExpressionText): Listing = {
    val index = scan.relation.location
    val columns = Env(scan.output.map(a => a.exprId -> a.name).toMap)
    val static = scan.partitionFilters.filterNot(SubqueryExpressions.in)
    val key = Digest.of("pruning", text.conjuncts(static, columns): _*)
    snapshot(index).filterNot(_ => scan.dataFilters.exists(selectsFiles)) match {
      case Some(taken) =>
        ListingCache(index, key, taken) {
          val place = new WeakReference(index) // the cache must not keep it
          val made = hash(
            scan,
            partitionsOf(scan),
            () => place.get,
            () => Option(place.get).flatMap(snapshot).contains(taken)
          )
          if (!made.current()) {
            Refused.source("input_refreshed", made.root, "it was refreshed meanwhile")
          }
          made
        }
      case None =>
        val partitions = partitionsOf(scan)
        val statuses = new Statuses(partitions.flatMap(_._2))
        ListingCache(index, key, statuses)(hash(scan, partitions, () => null, () => true))
    }
  }

  /** Filters on a file's metadata prune files one by one. */
  private def selectsFiles(filter: Expression): Boolean = filter.references.exists {
    case FileSourceConstantMetadataAttribute(_) | FileSourceMetadataAttribute(_) => true
    case _ => false
  }

  private def partitionsOf(scan: FileSourceScanExec): Array[(InternalRow, Array[FileStatus])] =
    scan.selectedPartitions.filePartitionIterator
      .map(p => (p.values, p.files.map(_.fileStatus).toArray)).toArray

  private def hash(
      scan: FileSourceScanExec,
      partitions: Array[(InternalRow, Array[FileStatus])],
      source: () => AnyRef,
      current: () => Boolean
  ): Listing = {
    val schema: StructType = scan.relation.partitionSchema
    val files = partitions.flatMap { case (values, statuses) =>
      // A catalog may give any partition any directory: its values count, not just its path.
      val partition = schema.fields.indices
        .map(i => literalText(values.get(i, schema(i).dataType), schema(i).dataType)).mkString(",")
      statuses.map(s => (s.getPath.toString, s, partition))
    }.sortBy(_._1)
    val digest = new Digest("listing").add(files.length.toLong)
    files.foreach { case (path, s, partition) =>
      digest.add(s"${path.length}:$path ${s.getLen} ${s.getModificationTime} $partition")
    }
    val roots = scan.relation.location.rootPaths.map(_.toString).sorted.mkString(",")
    new Listing(digest.hex(), roots, files.map(_._2), source, current)
  }

  /** What an index replaces whenever it lists anew; none where that cannot be seen. */
  private def snapshot(index: FileIndex): Option[Snapshot] =
    if (index.getClass != classOf[InMemoryFileIndex]) None
    else Try(new Snapshot(state.map(_.invoke(index)))).toOption

  private final class Snapshot(val parts: Seq[AnyRef]) {
    override def hashCode: Int = parts.map(System.identityHashCode).hashCode
    override def equals(other: Any): Boolean = other match {
      case o: Snapshot => parts.corresponds(o.parts)(_ eq _)
      case _ => false
    }
  }

  // Protected in Scala, which is public to the JVM.
  private lazy val state =
    Seq("leafFiles", "leafDirToChildrenFiles").map(classOf[InMemoryFileIndex].getMethod(_))

  /** File statuses as a listing's version: the very same objects in the same order. */
  private final class Statuses(val all: Array[FileStatus]) {
    override def hashCode: Int = all.length
    override def equals(other: Any): Boolean = other match {
      case o: Statuses =>
        all.length == o.all.length && all.indices.forall(i => all(i) eq o.all(i))
      case _ => false
    }
  }

  /**
   * Whether the files are still as they were listed: one listing per parent directory, several at a
   * time. False too when that cannot be found out.
   */
  def unchanged(listings: Seq[Listing], conf: Configuration): Boolean =
    listings.forall(_.current()) && {
      val directories = listings.flatMap(_.files).groupBy(_.getPath.getParent).toSeq
      val looks = directories.map { case (directory, files) =>
        new Callable[Boolean] { override def call(): Boolean = same(directory, files, conf) }
      }
      try lookers.invokeAll(looks.asJava).asScala.forall(_.get())
      catch { case NonFatal(_) => false }
    }

  private lazy val lookers = ThreadUtils.newDaemonCachedThreadPool("phoebe-inputs", 8)

  private def same(directory: Path, files: Seq[FileStatus], conf: Configuration): Boolean =
    try {
      val now = directory.getFileSystem(conf).listStatus(directory).iterator
        .map(s => s.getPath.getName -> s).toMap
      files.forall(f =>
        now.get(f.getPath.getName).exists(s =>
          s.getLen == f.getLen && s.getModificationTime == f.getModificationTime
        )
      )
    } catch {
      case _: FileNotFoundException => false
      case NonFatal(_) => false
    }
}

/**
 * Listings by location and static pruning, for as long as the location lives. A location may be
 * refreshed in place, so an entry counts only for the version that it was made of.
 */
private[fingerprint] object ListingCache {
  private final case class Entry(version: AnyRef, listing: Listing)

  private final class Key(index: FileIndex, queue: ReferenceQueue[FileIndex])
      extends WeakReference[FileIndex](index, queue) {
    private val hash = System.identityHashCode(index)
    override def hashCode: Int = hash
    override def equals(other: Any): Boolean = other match {
      case k: Key => (k eq this) || (get != null && (k.get eq get))
      case _ => false
    }
  }

  private val dead = new ReferenceQueue[FileIndex]
  private val entries = new ConcurrentHashMap[Key, ConcurrentHashMap[String, Entry]]

  /** The listing known for this version under this key, or a new one. */
  def apply(index: FileIndex, key: String, version: AnyRef)(make: => Listing): Listing = {
    Iterator.continually(dead.poll()).takeWhile(_ != null).foreach(entries.remove(_))
    val byKey =
      entries.computeIfAbsent(new Key(index, dead), _ => new ConcurrentHashMap[String, Entry])
    val found = byKey.get(key)
    if (found != null && found.version == version) found.listing
    else {
      val listing = make
      byKey.put(key, Entry(version, listing))
      listing
    }
  }
}
