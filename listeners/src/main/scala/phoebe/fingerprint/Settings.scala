/*
 * The part of a fingerprint that is not in a plan: settings that change results or stored bytes, and
 * the versions of Spark and Java.
 */
package phoebe.fingerprint

import java.time.zone.ZoneRulesProvider
import java.util.{Locale, TimeZone}
import java.util.concurrent.atomic.AtomicReference

import scala.jdk.CollectionConverters._
import scala.util.Try

import com.ibm.icu.util.VersionInfo
import org.apache.hadoop.conf.Configuration
import org.apache.hadoop.util.{VersionInfo => HadoopVersion}

import org.apache.spark.{SPARK_BUILD_DATE, SPARK_REVISION, SPARK_VERSION, SparkConf}
import org.apache.spark.sql.internal.SQLConf
import org.apache.spark.sql.execution.phoebe.compat.SparkInternals

/** @param parts the values that count, by name; not redacted, so never show or log them unchanged */
private[fingerprint] final case class Settings(hash: String, parts: Seq[(String, String)]) {
  override def toString: String = s"Settings($hash)"
}

private[fingerprint] object Settings {

  /** Version of the fingerprint scheme. Raise it when the meaning of a fingerprint changes. */
  private val Scheme = 5

  /**
   * @param sql
   *   the session's settings; those that are neither neutral nor the default count
   * @param core
   *   the application's settings: compression of shuffle files, and options of its executors
   * @param readers
   *   the Hadoop settings that file readers use, see [[ofReaders]]
   */
  def of(sql: SQLConf, core: SparkConf, readers: Map[String, String]): Settings = {
    val set = SparkInternals.settings(sql)
    // Called on every planning pass. Session settings change rarely, the application's never.
    val known = last.get
    val process = ofProcess(sql)
    if (
      known != null && (known.core eq core) && known.sql == set && known.readers == readers &&
      known.process == process
    ) known.settings
    else {
      val snapshot = set.synchronized(new java.util.HashMap(set))
      val all = parts(sql, core, readers, process)
      val hash = new Digest("settings").addAll(all.flatMap { case (k, v) => Seq(k, v) }).hex()
      val made = Settings(hash, all)
      // Not cached if a setting was changed meanwhile.
      if (snapshot == set) last.set(new Known(snapshot, core, readers, process, made))
      made
    }
  }

  private final class Known(
      val sql: java.util.Map[String, String],
      val core: SparkConf,
      val readers: Map[String, String],
      val process: Seq[(String, String)],
      val settings: Settings
  )
  private val last = new AtomicReference[Known]

  /**
   * The Hadoop settings that file readers use, wherever they were set. Hadoop's own defaults are left
   * out: when they are loaded depends on the classes that an application has used.
   */
  def ofReaders(hadoop: Configuration): Map[String, String] = {
    // Loading this class adds files of settings to every configuration: better now than in a query.
    Class.forName("org.apache.hadoop.mapred.JobConf")
    hadoop.iterator.asScala.map(_.getKey)
      .filter(key => readerPrefixes.exists(key.startsWith) && !AllowList.isNeutral(key))
      .filterNot { key =>
        val sources = hadoop.getPropertySources(key)
        sources != null && sources.nonEmpty && sources.last.endsWith("-default.xml")
      }
      .map(key => key -> hadoop.get(key, "")).toMap
  }

  /** What any code of this process may change at any time, and what a session takes from it. */
  private def ofProcess(sql: SQLConf): Seq[(String, String)] = Seq(
    "time_zone" -> sql.sessionLocalTimeZone,
    // For times in ORC files and old calendars, and for upper and lower case.
    "jvm_time_zone" -> TimeZone.getDefault.getID,
    "jvm_locale" -> Locale.getDefault.toString,
    "jvm_locale_data" -> System.getProperty(LocaleData, "")
  )

  /** The values that count, by name. */
  def parts(
      sql: SQLConf,
      core: SparkConf,
      readers: Map[String, String]
  ): Seq[(String, String)] = parts(sql, core, readers, ofProcess(sql))

  private def parts(
      sql: SQLConf,
      core: SparkConf,
      readers: Map[String, String],
      process: Seq[(String, String)]
  ): Seq[(String, String)] = {
    val scratch = sql.clone()
    val set = sql.getAllConfs.iterator.filter { case (key, value) =>
      counts(key) && !AllowList.isNeutral(key) && !isDefault(key, value, scratch)
    }
    val resolved = Seq(
      "ansi" -> sql.ansiEnabled.toString,
      "case_sensitive" -> sql.caseSensitiveAnalysis.toString,
      "codec" -> core.get("spark.io.compression.codec", "lz4"),
      "compress" -> core.get("spark.shuffle.compress", "true"),
      "spark" -> SPARK_VERSION,
      // Vendors build other sources under a plain version.
      "spark_build" -> build,
      "hadoop" -> HadoopVersion.getVersion,
      // What a time zone's clocks show, and how a collation compares, changes with these tables.
      "tzdata" -> ZoneRulesProvider.getVersions("UTC").lastKey,
      "icu" -> VersionInfo.ICU_VERSION.toString,
      // Number formatting differs between Java releases (JDK-4511638).
      "java" -> System.getProperty("java.specification.version"),
      "fingerprint" -> s"$Scheme/${AllowList.version}"
    )
    // For readers, a session's settings replace Hadoop's.
    (readers.iterator ++ set ++ ofExecutors(core)).toMap.toSeq.sorted ++ process ++ resolved
  }

  /** Options that give executors another time zone or locale than the driver's. */
  private def ofExecutors(core: SparkConf): Seq[(String, String)] = {
    val options = Seq("spark.executor.defaultJavaOptions", "spark.executor.extraJavaOptions")
      .flatMap(core.getOption).flatMap(_.split("\\s+")).filter(_.startsWith("-D"))
      .map(_.stripPrefix("-D").split("=", 2)).collect { case Array(key, value) => key -> value }
      .filter { case (key, _) => userProperties(key) }
    val environment = core.getExecutorEnv.filter { case (key, _) => key == "TZ" || locales(key) }
    options ++ environment
  }

  private def build: String = if (SPARK_REVISION.isEmpty) SPARK_BUILD_DATE else SPARK_REVISION

  /** The order of the tables with names of months and days. */
  private val LocaleData = "java.locale.providers"
  private val userProperties =
    Set("timezone", "language", "country", "region", "variant", "script").map("user." + _) +
      LocaleData
  private val locales = Set("LANG", "LC_ALL")

  private def counts(key: String): Boolean =
    key.startsWith("spark.sql.") || key.startsWith("spark.databricks.") ||
      readerPrefixes.exists(key.startsWith)

  /** Each ORC setting also has Hive's name. */
  private val readerPrefixes = Seq(
    "parquet",
    "orc",
    "hive.exec.orc",
    "hive.orc",
    "avro",
    "mapreduce.input",
    "mapred",
    "io.compression"
  ).map(_ + ".")

  /** Whether a key would have the same value without being set (fallbacks to other keys included). */
  private def isDefault(key: String, value: String, scratch: SQLConf): Boolean = {
    scratch.unsetConf(key)
    try Try(scratch.getConfString(key)).toOption.contains(value)
    finally scratch.setConfString(key, value)
  }
}
