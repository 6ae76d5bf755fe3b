/*
 * Identity of a leaf's input: files by path, length and modification time; literal rows by their bytes;
 * ranges by their bounds. Sources that cannot be checked again are refused by name.
 */
package phoebe.fingerprint

import java.util.Locale

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.execution.{FileSourceScanExec, LocalTableScanExec}
import org.apache.spark.sql.execution.datasources.{FileFormat, HadoopFsRelation}
import org.apache.spark.sql.internal.SQLConf
import org.apache.spark.sql.types.{StructType, VariantType}
import org.apache.spark.sql.execution.phoebe.compat.SparkInternals
import phoebe.fingerprint.ExpressionText.{fieldText, schemaText, typeText, Env}

private[fingerprint] object Sources {

  /** A scan's files after static pruning, as Spark has listed them; refused where these are unknown. */
  def listing(scan: FileSourceScanExec, text: ExpressionText): Listing = {
    val relation = scan.relation
    val index = relation.location.getClass.getName
    if (scan.stream.isDefined) Refused.source("streaming", index, "it is a stream")
    val options = relation.options
    options.keys.find(ExpressionText.namesFile).foreach { option =>
      Refused.source("unknown_source", index, s"its option $option names a file not looked at")
    }
    options.keys.groupBy(_.toLowerCase(Locale.ROOT)).find(_._2.size > 1).foreach { case (key, _) =>
      Refused.source("unknown_source", index, s"its option $key is given twice")
    }
    if (leavesOut(relation)) {
      val why = "files that could not be read are left out, and may be there on another run"
      Refused.source("ignored_files", index, why)
    }
    if (DeltaSource.owns(index)) DeltaSource.listing(relation.location, relation.fileFormat)
    else {
      val format = relation.fileFormat.getClass.getName
      if (!indexes(index)) Refused.source("unknown_source", index, "its file index is not known")
      if (!AllowList.formats(format)) {
        Refused.source("unknown_source", format, "its format is not known")
      }
      if (guessesTypes(scan)) {
        val why = "the type of a variant follows from the lines before it, by where files are split"
        Refused.source("split_dependent", format, why)
      }
      val listing = Listings(scan, text)
      if (mayKeepHeader(scan, listing)) {
        val why = "its header is a row where comments or blank lines fill a file's first split"
        Refused.source("split_dependent", format, why)
      }
      listing
    }
  }

  /**
   * Whether unreadable files are skipped. Readers take that setting from the session that made the
   * relation, or from the one that runs the query.
   */
  private def leavesOut(relation: HadoopFsRelation): Boolean = {
    val conf = relation.sparkSession.sessionState.conf
    def option(key: String) = ExpressionText.option(relation.options, key)
    conf.ignoreCorruptFiles || conf.ignoreMissingFiles ||
    SQLConf.get.ignoreCorruptFiles || SQLConf.get.ignoreMissingFiles ||
    Seq("ignoreCorruptFiles", "ignoreMissingFiles").exists(option(_).exists(isTrue)) ||
    // ORC's own setting, under both names: an option, a session's setting, or one of Hadoop's.
    skipsInOrc.exists { key =>
      val hadoop = relation.sparkSession.sparkContext.hadoopConfiguration.get(key, "")
      Seq(option(key).getOrElse(""), conf.getConfString(key, ""), hadoop).exists(isTrue)
    }
  }

  private def isTrue(value: String): Boolean = value.trim.equalsIgnoreCase("true")

  private val skipsInOrc = Seq("orc.skip.corrupt.data", "hive.exec.orc.skip.corrupt.data")

  /** CSV infers a variant's type from the first values that a task reads. */
  private def guessesTypes(scan: FileSourceScanExec): Boolean =
    scan.relation.fileFormat.getClass.getName == csv &&
      (ExpressionText.option(scan.relation.options, "singleVariantColumn").isDefined ||
        scan.requiredSchema.exists(f =>
          SparkInternals.exists(f.dataType)(_.isInstanceOf[VariantType])
        ))

  /**
   * Whether a CSV file's header may be read as a row. Spark leaves it out of a file's first split, and
   * finds none there where the split holds nothing but comments and blank lines. How long splits are
   * depends on neutral settings and on the cores, but none that others follow is shorter than `least`.
   */
  private def mayKeepHeader(scan: FileSourceScanExec, listing: Listing): Boolean = {
    val relation = scan.relation
    def option(key: String) = ExpressionText.option(relation.options, key)
    if (relation.fileFormat.getClass.getName != csv || !option("header").exists(isTrue)) false
    else {
      val conf = relation.sparkSession.sessionState.conf
      // What is pruned when the scan runs is not known yet.
      val prunedLater = scan.partitionFilters.exists(SubqueryExpressions.in)
      val share = conf.filesMinPartitionNum.filterNot(_ => prunedLater).fold(0L)(listing.bytes / _)
      val least = conf.filesMaxPartitionBytes.min(conf.filesOpenCostInBytes.max(share))
      (least < BlankBytes || option("comment").exists(_.nonEmpty)) && listing.files.exists { file =>
        file.getLen > least && relation.fileFormat
          .isSplitable(relation.sparkSession, relation.options, file.getPath)
      }
    }
  }

  /** More than the blank lines at the head of any file. */
  private val BlankBytes = 1L << 20

  /**
   * What else changes the rows that a reader returns. To a parser of text, a record is malformed or not
   * depending on the requested columns. So the rows, and the corrupt record's column, differ between sets
   * of columns. Avro's reader may find fields by their position among them (`positionalFieldMatching`).
   * The other formats give the same rows for any columns.
   */
  private def reads(scan: FileSourceScanExec): Seq[String] = {
    val relation = scan.relation
    val required =
      if (goByColumns(relation.fileFormat.getClass.getName)) Seq(schemaText(scan.requiredSchema))
      else Nil
    // Files of buckets that a filter excludes are not read.
    val buckets = relation.bucketSpec.toSeq.flatMap { spec =>
      val enabled = relation.sparkSession.sessionState.conf.bucketingEnabled
      val chosen = scan.optionalBucketSet.map(_.iterator)
      Seq(spec.toString, enabled.toString, chosen.fold("all")(_.mkString(",")))
    }
    Seq(required.size.toString) ++ required ++ buckets
  }

  /** The zone whose date a reader of text adds to a time of day, if it may read such values. */
  def clock(scan: FileSourceScanExec): Option[String] = {
    val relation = scan.relation
    if (!parsers(relation.fileFormat.getClass.getName)) None
    else if (!ExpressionText.hasTime(scan.requiredSchema)) None
    else Some(ExpressionText.option(relation.options, "timeZone").getOrElse(
      relation.sparkSession.sessionState.conf.sessionLocalTimeZone
    ))
  }

  /**
   * A scan of files, with static pruning as in Spark's own listing.
   *
   * @param settings
   *   the settings of the session that made the relation, if they differ from the planning session's
   */
  def files(
      scan: FileSourceScanExec,
      listing: Listing,
      text: ExpressionText,
      settings: Option[String]
  ): Relation = {
    val relation = scan.relation
    val columns = Env(scan.output.map(a => a.exprId -> a.name).toMap)
    // The predicates name columns of this very scan, so their bare names are enough.
    val hash = new Digest("files")
      .add(relation.fileFormat.getClass.getName)
      .addAll(relation.options.toSeq.sorted.flatMap { case (k, v) => Seq(k, v) })
      .add(schemaText(relation.dataSchema))
      .add(schemaText(relation.partitionSchema))
      .add(listing.hash)
      .addAll(text.conjuncts(scan.partitionFilters, columns))
      .addAll(text.conjuncts(scan.dataFilters, columns))
      .addAll(clock(scan).map(ExpressionText.today))
      .addAll(reads(scan))
      .addAll(settings)
      .hex()
    val env = scan.output.map(a => a.exprId -> column(scan.requiredSchema, hash, a)).toMap
    Relation(hash, Env(env), Set(listing))
  }

  private def column(required: StructType, scan: String, a: Attribute): String = {
    a match {
      case FileSourceConstantMetadataAttribute(_) if blockColumns(a.name) =>
        ExpressionText.unstableName(a.name)
      case _ =>
        // The field's metadata has what its type lacks: variant paths, default values.
        val field = required.fields.find(_.name == a.name).map(fieldText).getOrElse("")
        Digest.of("column", scan, a.name, typeText(a.dataType), field)
    }
  }

  def rows(scan: LocalTableScanExec): Relation = {
    if (scan.stream.isDefined) Refused.source("streaming", "LocalTableScan", "it is a stream")
    val digest = new Digest("rows").addAll(scan.output.map(a => typeText(a.dataType)))
    val project = UnsafeProjection.create(scan.output.map(_.dataType).toArray)
    // A multiset has no order. But there are few rows, and their order is the plan's own, so it counts.
    scan.rows.foreach(row => digest.add(project(row).getBytes))
    positional("rows", digest.hex(), scan.output)
  }

  /** A leaf whose columns are named by their position. */
  def positional(kind: String, hash: String, output: Seq[Attribute]): Relation = {
    val names = output.zipWithIndex.map { case (a, i) =>
      a.exprId -> Digest.of(kind, hash, i.toString, typeText(a.dataType))
    }
    Relation(hash, Env(names.toMap), Set.empty)
  }

  private val blockColumns = Set(FileFormat.FILE_BLOCK_START, FileFormat.FILE_BLOCK_LENGTH)

  private val datasources = "org.apache.spark.sql.execution.datasources."
  private val csv = datasources + "csv.CSVFileFormat"
  private val parsers =
    Set(csv, datasources + "json.JsonFileFormat", datasources + "xml.XmlFileFormat")
  private val goByColumns = parsers + "org.apache.spark.sql.avro.AvroFileFormat"

  private val indexes = Set("InMemoryFileIndex", "PrunedInMemoryFileIndex", "CatalogFileIndex")
    .map(datasources + _)
}

private[fingerprint] object SubqueryExpressions {
  def in(e: Expression): Boolean = e.exists(_.isInstanceOf[PlanExpression[_]])
}
