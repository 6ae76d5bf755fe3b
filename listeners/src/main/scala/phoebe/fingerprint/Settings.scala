/*
 * The part of a fingerprint that no plan shows: settings that change results or stored bytes, and
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

/** @param parts what counts, by name: not redacted, so never to be shown or logged as they are */
private[fingerprint] final case class Settings(hash: String, parts: Seq[(String, String)]) {
  override def toString: String = s"Settings($hash)"
}

private[fingerprint] object Settings {

  /** Raised whenever a name no longer stands for all that it stood for, or comes to stand for more. */
  private val Scheme = 4

  /**
   * @param sql
   *   the session's settings: what is set there, and is neither neutral nor the default, counts
   * @param core
   *   the application's settings: compression of shuffle files, what its executors are started with
   * @param readers
   *   its Hadoop settings that readers look at, see [[ofReaders]]
   */
  def of(sql: SQLConf, core: SparkConf, readers: Map[String, String]): Settings = {
    val set = SparkInternals.settings(sql)
    // Asked on every planning pass, changed hardly ever; the application's own never change.
    val known = last.get
    if (known != null && (known.core eq core) && known.sql == set && known.readers == readers)
      known.settings
    else {
      val snapshot = set.synchronized(new java.util.HashMap(set))
      val all = parts(sql, core, readers)
      val hash = new Digest("settings").addAll(all.flatMap { case (k, v) => Seq(k, v) }).hex()
      val made = Settings(hash, all)
      // Not remembered when somebody has set something meanwhile.
      if (snapshot == set) last.set(new Known(snapshot, core, readers, made))
      made
    }
  }

  private final class Known(
      val sql: java.util.Map[String, String],
      val core: SparkConf,
      val readers: Map[String, String],
      val settings: Settings
  )
  private val last = new AtomicReference[Known]

  /**
   * Hadoop's settings that file readers look at, wherever they were set. What Hadoop's own defaults say
   * is left out: when they are loaded depends on which classes an application has used.
   */
  def ofReaders(hadoop: Configuration): Map[String, String] = {
    // It adds files of settings to every configuration when it is loaded: now or in mid-query.
    Class.forName("org.apache.hadoop.mapred.JobConf")
    hadoop.iterator.asScala.map(_.getKey)
      .filter(key => readerPrefixes.exists(key.startsWith) && !AllowList.isNeutral(key))
      .filterNot { key =>
        val sources = hadoop.getPropertySources(key)
        sources != null && sources.nonEmpty && sources.last.endsWith("-default.xml")
      }
      .map(key => key -> hadoop.get(key, "")).toMap
  }

  /** What counts, by name. */
  def parts(
      sql: SQLConf,
      core: SparkConf,
      readers: Map[String, String]
  ): Seq[(String, String)] = {
    val scratch = sql.clone()
    val set = sql.getAllConfs.iterator.filter { case (key, value) =>
      counts(key) && !AllowList.isNeutral(key) && !isDefault(key, value, scratch)
    }
    val resolved = Seq(
      "time_zone" -> sql.sessionLocalTimeZone,
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
      // Of times in ORC files and in calendars of old, and of upper and lower case.
      "jvm_time_zone" -> TimeZone.getDefault.getID,
      "jvm_locale" -> Locale.getDefault.toString,
      "jvm_locale_data" -> System.getProperty(LocaleData, ""),
      "fingerprint" -> s"$Scheme/${AllowList.version}"
    )
    // What a session sets, readers are given in the place of Hadoop's own.
    (readers.iterator ++ set ++ ofExecutors(core)).toMap.toSeq.sorted ++ resolved
  }

  /** What gives executors another time zone or locale than the driver's. */
  private def ofExecutors(core: SparkConf): Seq[(String, String)] = {
    val options = Seq("spark.executor.defaultJavaOptions", "spark.executor.extraJavaOptions")
      .flatMap(core.getOption).flatMap(_.split("\\s+")).filter(_.startsWith("-D"))
      .map(_.stripPrefix("-D").split("=", 2)).collect { case Array(key, value) => key -> value }
      .filter { case (key, _) => userProperties(key) }
    val environment = core.getExecutorEnv.filter { case (key, _) => key == "TZ" || locales(key) }
    options ++ environment
  }

  private def build: String = if (SPARK_REVISION.isEmpty) SPARK_BUILD_DATE else SPARK_REVISION

  /** Which tables of names of months and days are asked, in order. */
  private val LocaleData = "java.locale.providers"
  private val userProperties =
    Set("timezone", "language", "country", "region", "variant", "script").map("user." + _) +
      LocaleData
  private val locales = Set("LANG", "LC_ALL")

  private def counts(key: String): Boolean =
    key.startsWith("spark.sql.") || key.startsWith("spark.databricks.") ||
      readerPrefixes.exists(key.startsWith)

  /** Each setting of ORC has a second name, of Hive's. */
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

  /** Whether a key's explicit value is what it would be anyway (fallbacks to other keys included). */
  private def isDefault(key: String, value: String, scratch: SQLConf): Boolean = {
    scratch.unsetConf(key)
    try Try(scratch.getConfString(key)).toOption.contains(value)
    finally scratch.setConfString(key, value)
  }
}
