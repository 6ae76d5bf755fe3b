/*
 * The name of the files that a scan reads: path, length, modification time and partition values, as
 * Spark has listed them. A digest is kept as long as its listing, so a table of 100,000 files is
 * digested once and not on every pass.
 */
package phoebe.fingerprint

import java.lang.ref.{ReferenceQueue, WeakReference}
import java.util.concurrent.ConcurrentHashMap

import scala.util.Try

import org.apache.hadoop.fs.FileStatus
import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.expressions.{
  Expression,
  FileSourceConstantMetadataAttribute,
  FileSourceMetadataAttribute
}
import org.apache.spark.sql.execution.{FileSourceScanExec, ReusedSubqueryExec, SparkPlan}
import org.apache.spark.sql.execution.adaptive.{AdaptiveSparkPlanExec, QueryStageExec}
import org.apache.spark.sql.execution.datasources.{FileIndex, InMemoryFileIndex}
import org.apache.spark.sql.execution.exchange.ReusedExchangeExec
import org.apache.spark.sql.types.StructType
import phoebe.fingerprint.ExpressionText.{literalText, Env}

/**
 * One listing of files, digested once. Compared by identity: the same listing is the same object.
 *
 * @param roots
 *   the relation's root paths
 * @param files
 *   the listing's own records (path, length in bytes, modification time in ms since the epoch)
 * @param immutable
 *   whether its files are written once, under unique names
 * @param isWhole
 *   whether the listing has all files that Spark would list in these directories, except empty files
 * @param source
 *   the index that it was taken from, or null if that was garbage collected
 * @param current
 *   whether that index has not been refreshed since
 */
final class Listing private[fingerprint] (
    private[fingerprint] val hash: String,
    private[fingerprint] val roots: Set[String],
    val files: Array[FileStatus],
    private[fingerprint] val immutable: Boolean,
    private[fingerprint] val isWhole: Boolean,
    private[fingerprint] val source: () => AnyRef,
    private[fingerprint] val current: () => Boolean
) {

  /** The roots, to show to people. */
  val root: String = roots.toSeq.sorted.mkString(",")
  private[fingerprint] lazy val isOnLocalDisk =
    files.headOption.forall(f => Looks.isOnDisk(f.getPath))
  lazy val bytes: Long = files.iterator.map(_.getLen).sum
  lazy val newestMs: Option[Long] = files.iterator.map(_.getModificationTime).maxOption
}

/** The listing of a scan when it ran. Its hash is comparable with that of a [[Listing]]. */
final class RanScan private[fingerprint] (
    private[fingerprint] val root: String,
    digest: () => String
) {
  private[fingerprint] lazy val hash: String = digest()
}

private[phoebe] object Listings {

  /**
   * Spark's own listing after static pruning.
   *
   * If the index has a snapshot with a known digest, nothing is listed. A scan lists again when it runs;
   * a check before the commit makes sure that it has listed the same (`Listing.current`, `ran`).
   */
  private[fingerprint] def apply(scan: FileSourceScanExec, text: ExpressionText): Listing = {
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
    val files = sorted(scan.relation.partitionSchema, partitions)
    files.find(_.status.getModificationTime <= 0).foreach { file =>
      Refused.source("undated_file", file.path, "it has no modification time")
    }
    val roots = scan.relation.location.rootPaths.map(_.toString).toSet
    new Listing(
      digest(files),
      roots,
      files.map(_.status),
      immutable = false,
      isWhole = !choosesFiles(scan),
      source,
      current
    )
  }

  private final case class Listed(path: String, status: FileStatus, partition: String)

  private def sorted(
      schema: StructType,
      partitions: Array[(InternalRow, Array[FileStatus])]
  ): Array[Listed] =
    partitions.flatMap { case (values, statuses) =>
      // A catalog may give any partition any directory, so its values count too, not only its path.
      val partition = schema.fields.indices
        .map(i => literalText(values.get(i, schema(i).dataType), schema(i).dataType)).mkString(",")
      statuses.map(s => Listed(s.getPath.toString, s, partition))
    }.sortBy(_.path)

  private def digest(files: Array[Listed]): String = {
    val digest = new Digest("listing").add(files.length.toLong)
    files.foreach { case Listed(path, s, partition) =>
      digest.add(s"${path.length}:$path ${s.getLen} ${s.getModificationTime} $partition")
    }
    digest.hex()
  }

  /** Whether options or filters may exclude files of a directory. */
  private def choosesFiles(scan: FileSourceScanExec): Boolean = {
    val session = scan.relation.sparkSession
    scan.dataFilters.exists(selectsFiles) ||
    chooses.exists(ExpressionText.option(scan.relation.options, _).isDefined) ||
    session.sessionState.conf.contains(PathFilter) ||
    session.sparkContext.hadoopConfiguration.get(PathFilter) != null
  }

  private val PathFilter = "mapreduce.input.pathFilter.class"
  private val chooses = Seq("pathGlobFilter", "modifiedBefore", "modifiedAfter", PathFilter)

  /**
   * The listings of the scans below a node that list again each time. Called after they ran, this lists
   * nothing.
   */
  def ran(plan: SparkPlan): Seq[RanScan] = scans(plan).collect {
    case scan if listsAnew(scan.relation.location) =>
      val partitions = partitionsOf(scan)
      val schema = scan.relation.partitionSchema
      val root = scan.relation.location.rootPaths.mkString(",")
      new RanScan(root, () => digest(sorted(schema, partitions)))
  }

  private def listsAnew(index: FileIndex) =
    snapshot(index).isEmpty && !DeltaSource.owns(index.getClass.getName)

  private def scans(plan: SparkPlan): Seq[FileSourceScanExec] = plan match {
    case scan: FileSourceScanExec => scan +: scan.subqueries.flatMap(scans)
    case a: AdaptiveSparkPlanExec => scans(a.executedPlan)
    case s: QueryStageExec => scans(s.plan)
    case r: ReusedExchangeExec => scans(r.child)
    case r: ReusedSubqueryExec => scans(r.child)
    case other => (other.children ++ other.subqueries).flatMap(scans)
  }

  /** The parts of an index that it replaces whenever it lists again; None for other indexes. */
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

  // These are protected in Scala, which is public in the JVM.
  private lazy val state =
    Seq("leafFiles", "leafDirToChildrenFiles").map(classOf[InMemoryFileIndex].getMethod(_))

  /** File statuses as a listing's version: the same objects in the same order. */
  private final class Statuses(val all: Array[FileStatus]) {
    override def hashCode: Int = all.length
    override def equals(other: Any): Boolean = other match {
      case o: Statuses =>
        all.length == o.all.length && all.indices.forall(i => all(i) eq o.all(i))
      case _ => false
    }
  }
}

/**
 * Listings by location and static pruning, kept as long as the location lives. A location may be
 * refreshed in place, so an entry is valid only for its own version.
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
