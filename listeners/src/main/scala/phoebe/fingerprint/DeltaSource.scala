/*
 * Identity of a Delta table's snapshot: the data files that the prepared scan reads, with their
 * deletion vectors, and the table's id and schema. By reflection, as Delta is not on our class
 * path. A table is refused if its classes are not those of Delta 4.x.
 */
package phoebe.fingerprint

import org.apache.hadoop.fs.{FileStatus, Path}

import org.apache.spark.sql.execution.datasources.{FileFormat, FileIndex}

private[fingerprint] object DeltaSource {
  private val delta = "org.apache.spark.sql.delta."
  private val prepared = delta + "stats.PreparedDeltaFileIndex"
  private val format = delta + "DeltaParquetFileFormat"

  def owns(index: String): Boolean = index.startsWith(delta)

  /** Data files of Delta have unique names, and are never written twice. */
  def listing(index: FileIndex, fileFormat: FileFormat): Listing = {
    if (index.getClass.getName != prepared || fileFormat.getClass.getName != format) {
      refuse(index, "only scans prepared from a snapshot are known")
    }
    try {
      if (get(fileFormat, "isCDCRead") != false) refuse(index, "it reads a change feed")
      ListingCache(index, "delta", this)(named(index, fileFormat))
    } catch {
      case e @ (_: ReflectiveOperationException | _: ClassCastException) =>
        refuse(index, s"it is not a Delta that is known ($e)")
    }
  }

  private def named(index: FileIndex, fileFormat: FileFormat): Listing = {
    val metadata = get(fileFormat, "metadata")
    val files = get(get(index, "preparedScan"), "files").asInstanceOf[Iterable[AnyRef]].toArray
    val configuration = get(metadata, "configuration").asInstanceOf[Map[String, String]]
    val roots = index.rootPaths.map(_.toString)
    val digest = new Digest("delta")
      .add(version(index))
      .add(get(metadata, "id").toString)
      // A copy of a table has the same id, and its files' locations can be read as a column.
      .addAll(roots)
      .add(get(metadata, "schemaString").toString)
      .addAll(configuration.toSeq.sorted.flatMap { case (k, v) => Seq(k, v) })
      .addAll(files.map(file).sorted)
    new Listing(
      digest.hex(),
      roots.toSet,
      files.map(status(index, _)),
      immutable = true,
      isWhole = false,
      () => null,
      () => true
    )
  }

  private def file(file: AnyRef): String = {
    val vector = get(file, "deletionVector")
    val partition = get(file, "partitionValues").asInstanceOf[Map[String, String]].toSeq.sorted
    new Digest("delta-file")
      .add(get(file, "path").toString)
      .add(get(file, "size").toString)
      .addAll(partition.flatMap { case (k, v) => Seq(k, if (v == null) "null" else s"=$v") })
      .add(if (vector == null) "" else vector.toString)
      // Row ids and commit versions can be read as columns.
      .add(get(file, "baseRowId").toString)
      .add(get(file, "defaultRowCommitVersion").toString)
      .hex()
  }

  private val absolutePath = "absolutePath"

  private def status(index: FileIndex, file: AnyRef): FileStatus = {
    val path =
      index.getClass.getMethod(absolutePath, classOf[String]).invoke(index, get(file, "path"))
    val size = get(file, "size").asInstanceOf[Long]
    val modifiedMs = get(file, "modificationTime").asInstanceOf[Long]
    new FileStatus(size, false, 0, 0, modifiedMs, path.asInstanceOf[Path])
  }

  /** Delta's version, because its readers may differ from release to release. */
  private def version(index: FileIndex): String = {
    val holder = Class.forName("io.delta.package$", true, index.getClass.getClassLoader)
    get(holder.getField("MODULE$").get(null), "VERSION").toString
  }

  private def get(target: AnyRef, member: String): AnyRef =
    target.getClass.getMethod(member).invoke(target)

  private def refuse(index: FileIndex, why: String): Nothing =
    Refused.source("delta_table", index.getClass.getName, why)
}
