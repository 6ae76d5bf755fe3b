/*
 * The part of a fingerprint that no plan shows: settings that change results or stored bytes, and
 * the versions of Spark and Java.
 */
package org.apache.spark.sql.execution.phoebe.fingerprint

import java.util.concurrent.atomic.AtomicReference

import scala.util.Try

import org.apache.spark.{SPARK_VERSION, SparkConf}
import org.apache.spark.sql.internal.SQLConf

private[fingerprint] object Settings {

  /**
   * @param sql
   *   the session's settings: what is set there, and is neither neutral nor the default, counts
   * @param core
   *   the application's settings: compression of shuffle files, and readers' Hadoop settings
   */
  def hash(sql: SQLConf, core: SparkConf): String = {
    // Asked on every planning pass, changed hardly ever; the application's never change.
    val known = last.get
    if (known != null && (known.core eq core) && known.sql == sql.settings) known.hash
    else {
      val snapshot = sql.settings.synchronized(new java.util.HashMap(sql.settings))
      val made = compute(sql, core)
      // Not remembered when somebody has set something meanwhile.
      if (snapshot == sql.settings) last.set(new Known(snapshot, core, made))
      made
    }
  }

  private final class Known(
      val sql: java.util.Map[String, String],
      val core: SparkConf,
      val hash: String
  )
  private val last = new AtomicReference[Known]

  private def compute(sql: SQLConf, core: SparkConf): String = {
    val all = parts(sql, core)
    new Digest("settings").addAll(all.flatMap { case (k, v) => Seq(k, v) }).hex()
  }

  /** What counts, by name. */
  def parts(sql: SQLConf, core: SparkConf): Seq[(String, String)] = {
    val scratch = sql.clone()
    val set = sql.getAllConfs.iterator.filter { case (key, value) =>
      counts(key) && !AllowList.isNeutral(key) && !isDefault(key, value, scratch)
    }
    val readers = core.getAll.iterator.filter { case (key, _) =>
      readerPrefixes.exists(key.startsWith)
    }
    val resolved = Seq(
      "time_zone" -> sql.sessionLocalTimeZone,
      "ansi" -> sql.ansiEnabled.toString,
      "case_sensitive" -> sql.caseSensitiveAnalysis.toString,
      "codec" -> core.get("spark.io.compression.codec", "lz4"),
      "compress" -> core.get("spark.shuffle.compress", "true"),
      "spark" -> SPARK_VERSION,
      // Number formatting differs between Java releases (JDK-4511638).
      "java" -> System.getProperty("java.specification.version")
    )
    (set ++ readers).toMap.toSeq.sorted ++ resolved
  }

  private def counts(key: String): Boolean =
    key.startsWith("spark.sql.") || key.startsWith("spark.databricks.") ||
      readerPrefixes.exists(key.startsWith)

  private val readerPrefixes = Seq("parquet", "orc", "avro", "mapreduce.input", "mapred")
    .flatMap(p => Seq(s"$p.", s"spark.hadoop.$p."))

  /** Whether a key's explicit value is what it would be anyway (fallbacks to other keys included). */
  private def isDefault(key: String, value: String, scratch: SQLConf): Boolean = {
    scratch.unsetConf(key)
    try Try(scratch.getConfString(key)).toOption.contains(value)
    finally scratch.setConfString(key, value)
  }
}
