package phoebe.harvest

import scala.jdk.CollectionConverters._
import scala.util.Try

import org.apache.hadoop.conf.Configuration
import org.apache.hadoop.fs.Path

import phoebe.Json

/**
 * The driver's Hadoop settings of the store that holds a home, for the companion, which makes its
 * own library's options of them (`phoebe_spark/tables/storage_options.py`). They hold credentials: they
 * go into the process's environment, never into a message, a log or a file.
 */
private[phoebe] object HadoopSettings {
  private val Variable = "PHOEBE_HADOOP_SETTINGS"
  private val CredentialStore = "hadoop.security.credential.provider.path"

  private val Prefixes = Map(
    "s3" -> Seq("fs.s3a."),
    "s3a" -> Seq("fs.s3a."),
    "abfs" -> Seq("fs.azure."),
    "abfss" -> Seq("fs.azure."),
    "gs" -> Seq("fs.gs.", "google.cloud.")
  )

  /** Empty for a home on a store that the companion has no options for. */
  def environment(home: Path, hadoop: Configuration): Map[String, String] = {
    val uri = home.toUri
    Prefixes.get(uri.getScheme).fold(Map.empty[String, String]) { prefixes =>
      val own = s"fs.s3a.bucket.${uri.getAuthority}."
      val names = hadoop.iterator().asScala.map(_.getKey).filter { name =>
        val ofOther = name.startsWith("fs.s3a.bucket.") && !name.startsWith(own)
        name == CredentialStore || (prefixes.exists(name.startsWith(_)) && !ofOther)
      }
      val found = names.flatMap(n =>
        Try(hadoop.get(n)).toOption.filter(_ != null).filter(_.nonEmpty).map(n -> _)
      ).toSeq
      Map(Variable -> Json.line(found: _*))
    }
  }
}
