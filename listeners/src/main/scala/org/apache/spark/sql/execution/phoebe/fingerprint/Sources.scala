/*
 * Identity of what a leaf reads: files by path, length and modification time; literal rows by their
 * bytes; ranges by their bounds. Sources that cannot be looked at again are refused by name.
 */
package org.apache.spark.sql.execution.phoebe.fingerprint

import java.io.FileNotFoundException
import java.lang.ref.{ReferenceQueue, WeakReference}
import java.util.concurrent.ConcurrentHashMap

import scala.util.control.NonFatal

import org.apache.hadoop.conf.Configuration
import org.apache.hadoop.fs.{FileStatus, Path}
import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.execution.{FileSourceScanExec, LocalTableScanExec}
import org.apache.spark.sql.execution.datasources.{FileFormat, FileIndex}
import org.apache.spark.sql.execution.phoebe.fingerprint.ExpressionText.{
  fieldText,
  literalText,
  schemaText,
  typeText,
  Env
}
import org.apache.spark.sql.types.StructType

/**
 * Identity of one input relation, and how to look at it again before a commit.
 *
 * @param root
 *   the relation's root paths, joined by commas, for people
 * @param files
 *   path, length in bytes, modification time in ms since the epoch; sorted by path
 */
final case class InputFiles(root: String, files: Seq[(String, Long, Long)])

/** One listing of files, hashed once. Compared by identity: the same listing is the same object. */
private[fingerprint] final class Listing(val hash: String, val inputs: InputFiles)

private[fingerprint] object Sources {

  /** A scan of files, its static pruning done by Spark's own listing. */
  def files(scan: FileSourceScanExec, text: ExpressionText): Relation = {
    val relation = scan.relation
    val index = relation.location.getClass.getName
    if (scan.stream.isDefined) Refused.source("streaming", index, "it is a stream")
    val format = relation.fileFormat.getClass.getName
    val columns = Env(scan.output.map(a => a.exprId -> a.name).toMap)
    val listing = if (DeltaSource.owns(index)) {
      DeltaSource.listing(relation.location, relation.fileFormat)
    } else {
      if (!indexes(index)) Refused.source("unknown_source", index, "its file index is not known")
      if (!AllowList.formats(format)) {
        Refused.source("unknown_source", format, "its format is not known")
      }
      val static = scan.partitionFilters.filterNot(SubqueryExpressions.in)
      listed(scan, text.conjuncts(static, columns))
    }
    // The predicates name columns of this very scan, so their bare names are enough.
    val hash = new Digest("files")
      .add(format)
      .addAll(relation.options.toSeq.sorted.flatMap { case (k, v) => Seq(k, v) })
      .add(schemaText(relation.dataSchema))
      .add(schemaText(relation.partitionSchema))
      .add(listing.hash)
      .addAll(text.conjuncts(scan.partitionFilters, columns))
      .addAll(text.conjuncts(scan.dataFilters, columns))
      .hex()
    val env = scan.output.map(a => a.exprId -> column(scan.requiredSchema, hash, a)).toMap
    Relation(hash, Env(env), Set(listing))
  }

  /** What Spark's own listing gives after static pruning. */
  private def listed(scan: FileSourceScanExec, pruning: Seq[String]): Listing = {
    val relation = scan.relation
    val partitions = scan.selectedPartitions.filePartitionIterator
      .map(p => (p.values, p.files.map(_.fileStatus).toArray)).toArray
    val key = Digest.of("pruning", pruning: _*)
    ListingCache(relation.location, key, partitions.flatMap(_._2)) {
      hash(relation.location, relation.partitionSchema, partitions)
    }
  }

  private def hash(
      index: FileIndex,
      schema: StructType,
      partitions: Array[(InternalRow, Array[FileStatus])]
  ): Listing = {
    val files = partitions.flatMap { case (values, statuses) =>
      // A catalog may give any partition any directory: its values count, not just its path.
      val partition = schema.fields.indices
        .map(i => literalText(values.get(i, schema(i).dataType), schema(i).dataType)).mkString(",")
      statuses.map(s => (s.getPath.toString, s.getLen, s.getModificationTime, partition))
    }.sortBy(_._1)
    val digest = new Digest("listing").add(files.length.toLong)
    files.foreach { case (path, length, mtime, partition) =>
      digest.add(path).add(length).add(mtime).add(partition)
    }
    val roots = index.rootPaths.map(_.toString).sorted.mkString(",")
    val tuples = files.iterator.map { case (path, length, mtime, _) =>
      (path, length, mtime)
    }.toVector
    new Listing(digest.hex(), InputFiles(roots, tuples))
  }

  private def column(required: StructType, scan: String, a: Attribute): String = {
    a match {
      case FileSourceConstantMetadataAttribute(_) if blockColumns(a.name) =>
        ExpressionText.unstableName(a.name)
      case _ =>
        // The field's own description carries what a type does not: variant paths, default values.
        val field = required.fields.find(_.name == a.name).map(fieldText).getOrElse("")
        Digest.of("column", scan, a.name, typeText(a.dataType), field)
    }
  }

  def rows(scan: LocalTableScanExec): Relation = {
    if (scan.stream.isDefined) Refused.source("streaming", "LocalTableScan", "it is a stream")
    val digest = new Digest("rows").addAll(scan.output.map(a => typeText(a.dataType)))
    val project = UnsafeProjection.create(scan.output.map(_.dataType).toArray)
    // A multiset has no order, but rows are few and their order is the plan's own: kept.
    scan.rows.foreach(row => digest.add(project(row).getBytes))
    positional("rows", digest.hex(), scan.output)
  }

  /** A leaf whose columns have no origin but their place in it. */
  def positional(kind: String, hash: String, output: Seq[Attribute]): Relation = {
    val names = output.zipWithIndex.map { case (a, i) =>
      a.exprId -> Digest.of(kind, hash, i.toString, typeText(a.dataType))
    }
    Relation(hash, Env(names.toMap), Set.empty)
  }

  /** Whether the files are still as they were listed; one listing per parent directory. */
  def unchanged(inputs: Seq[InputFiles], conf: Configuration): Boolean =
    try {
      inputs.iterator.flatMap(_.files).toSeq.groupBy { case (path, _, _) =>
        new Path(path).getParent
      }
        .forall { case (directory, files) =>
          val now = directory.getFileSystem(conf).listStatus(directory).iterator
            .map(s => s.getPath.toString -> ((s.getLen, s.getModificationTime))).toMap
          files.forall { case (path, length, mtime) => now.get(path).contains((length, mtime)) }
        }
    } catch {
      case _: FileNotFoundException => false
      case NonFatal(_) => false
    }

  private val blockColumns = Set(FileFormat.FILE_BLOCK_START, FileFormat.FILE_BLOCK_LENGTH)

  private val indexes = Set("InMemoryFileIndex", "PrunedInMemoryFileIndex", "CatalogFileIndex")
    .map("org.apache.spark.sql.execution.datasources." + _)
}

private[fingerprint] object SubqueryExpressions {
  def in(e: Expression): Boolean = e.exists(_.isInstanceOf[PlanExpression[_]])
}

/**
 * Hashes a listing once per location and static pruning. A location may be refreshed in place, so
 * an entry counts only while every file status is the very object that was hashed.
 */
private[fingerprint] object ListingCache {
  private final case class Entry(statuses: Array[FileStatus], listing: Listing)

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

  /** The listing known for these very statuses under this key, or a new one. */
  def apply(
      index: FileIndex,
      key: String,
      statuses: Array[FileStatus]
  )(make: => Listing): Listing = {
    Iterator.continually(dead.poll()).takeWhile(_ != null).foreach(entries.remove(_))
    val byKey =
      entries.computeIfAbsent(new Key(index, dead), _ => new ConcurrentHashMap[String, Entry])
    val found = byKey.get(key)
    if (found != null && same(found.statuses, statuses)) {
      found.listing
    } else {
      val listing = make
      byKey.put(key, Entry(statuses, listing))
      listing
    }
  }

  private def same(a: Array[FileStatus], b: Array[FileStatus]): Boolean =
    a.length == b.length && a.indices.forall(i => a(i) eq b(i))
}
