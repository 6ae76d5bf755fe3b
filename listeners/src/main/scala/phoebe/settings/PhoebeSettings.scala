package phoebe.settings

import java.io.File
import java.net.URI
import java.nio.file.{Files, Path => LocalPath, Paths}

import scala.jdk.CollectionConverters._
import scala.util.Try

import com.fasterxml.jackson.databind.JsonNode
import org.apache.hadoop.fs.Path

import org.apache.spark.{SparkConf, SparkEnv}
import org.apache.spark.sql.internal.SQLConf
import phoebe.Json
import phoebe.store.{Limits, RangeFetcher}

/**
 * The values of `spark.phoebe.*`. Names, defaults and what is accepted come from
 * `phoebe/settings.json`, generated from the declarations in `phoebe_spark/settings.py`.
 */
final class PhoebeSettings private (val values: Map[String, String]) {
  def mode: Mode = Mode.of(values("mode"))

  /** Absolute, with a scheme; a path given without one is local. */
  def home: Path = PhoebeSettings.absolute(values("home"))

  def checkpointDir: Path =
    values.get("checkpoint.dir").fold(new Path(home, "checkpoints"))(PhoebeSettings.absolute)

  /**
   * Why the checkpoint store cannot be where it is to be: beside files of the home, or among them, it
   * would be taken for theirs and they for its.
   */
  def misplacedStore: Option[String] = {

    /** Links resolved, as far as the path is there. */
    def real(path: LocalPath): LocalPath =
      if (Files.exists(path)) path.toRealPath()
      else Option(path.getParent).fold(path)(above => real(above).resolve(path.getFileName))
    def whole(path: Path): String =
      if (path.toUri.getScheme == "file") real(Paths.get(path.toUri.getPath).normalize).toString
      else path.toUri.normalize.toString.stripSuffix("/")
    val store = whole(checkpointDir)
    val own = Seq("tables", "bundle", "spool").map(new Path(home, _)).map(whole)
    if (store == whole(home) || own.exists(dir => store == dir || store.startsWith(s"$dir/"))) {
      Some(s"${PhoebeSettings.plain(checkpointDir)} is where the home keeps its own files: name " +
        s"another directory, such as ${PhoebeSettings.plain(new Path(home, "checkpoints"))}")
    } else None
  }

  /** Whether checkpoints are removed once the application has ended well. */
  def removeWhenDone: Boolean = values("checkpoint.retain") == "failure"

  /** Whether other users' checkpoints are restored, and they may restore this one's. */
  def sharesCheckpoints: Boolean = values("checkpoint.sharing") == "all"

  /** Whether the store itself encrypts what it holds. */
  def storeEncrypts: Boolean = values("checkpoint.encryption") == "store"

  /** What a garbage collection leaves. */
  def limits: Limits = Limits(
    values("checkpoint.max_age_hours").toLong * 3600000L,
    values("checkpoint.max_store_bytes").toLong
  )
  def leaseMs: Long = values("lease_ms").toLong
  def python: String = values("python")
  def adviceTimeoutMs: Long = values("advice.timeout_ms").toLong
  def minDurationMs: Long = values("min_duration_ms").toLong
  def uploadThreads: Int = values("checkpoint.upload_threads").toInt
  def readTimeoutMs: Long = values("checkpoint.read_timeout_ms").toLong
  def lookTimeoutMs: Long = values("checkpoint.look_timeout_ms").toLong
  def heldBytes: Long = values("checkpoint.held_bytes").toLong

  /** Whether events go to spool files, through Hadoop's file system, and no companion is started. */
  def spools: Boolean = values("harvest.sink") == "spool"
  def queueCapacity: Int = values("harvest.queue_capacity").toInt

  /** What the test setting `force` names. */
  def force: Force = Force.of(values("force"))

  /** The same with the session's own values of the per-query settings; Left: the error line. */
  def forQuery(conf: SQLConf): Either[String, PhoebeSettings] = {
    val set = PhoebeSettings.declared.filter(_.session).flatMap { d =>
      Option(conf.getConfString(d.key, null)).filter(_.trim != values(d.name)).map(d -> _)
    }
    if (set.isEmpty) Right(this)
    else PhoebeSettings.errors(set).headOption.toLeft {
      new PhoebeSettings(values ++ set.map { case (d, text) => d.name -> text.trim })
    }
  }

  /** Every value, by full key, as `hello` carries it: paths absolute, local ones without scheme. */
  def resolved: Map[String, String] = {
    val paths = Map(
      "home" -> PhoebeSettings.plain(home),
      "checkpoint.dir" -> PhoebeSettings.plain(checkpointDir)
    )
    (values ++ paths).map { case (name, value) => s"spark.phoebe.$name" -> value }
  }
}

sealed abstract class Mode(val name: String, val rank: Int) {
  def atMost(limit: Mode): Mode = if (rank <= limit.rank) this else limit
}

object Mode {
  case object Off extends Mode("off", 0)
  case object Observe extends Mode("observe", 1)
  case object Advise extends Mode("advise", 2)
  case object Apply extends Mode("apply", 3)

  def of(name: String): Mode =
    Seq(Off, Observe, Advise, Apply).find(_.name == name).getOrElse(Off)
}

/** Boundaries that are checkpointed without advice (a test setting). */
sealed trait Force {
  def names(fingerprint: Option[String], boundaryId: String): Boolean
}

object Force {
  case object None extends Force {
    override def names(fingerprint: Option[String], boundaryId: String): Boolean = false
  }
  case object All extends Force {
    override def names(fingerprint: Option[String], boundaryId: String): Boolean = true
  }
  final case class Listed(ids: Set[String]) extends Force {
    override def names(fingerprint: Option[String], boundaryId: String): Boolean =
      ids(boundaryId) || fingerprint.exists(ids)
  }

  def of(text: String): Force = text match {
    case "none" => None
    case "all" => All
    case list => Listed(list.split(',').map(_.trim).filter(_.nonEmpty).toSet)
  }
}

object PhoebeSettings {

  /** The release of the jar. */
  val pluginVersion: String =
    Option(getClass.getPackage.getImplementationVersion).getOrElse("development")

  final private[phoebe] case class Declared(
      name: String,
      key: String,
      kind: String,
      default: Option[String],
      choices: Seq[String],
      minimum: Double,
      maximum: Double,
      pattern: String,
      accepts: String,
      session: Boolean
  ) {

    def isValid(text: String): Boolean = kind match {
      case "int" => Try(text.toLong).toOption.exists(n => minimum <= n && n <= maximum)
      case "float" => Try(text.toDouble).toOption.exists(n => minimum <= n && n <= maximum)
      case "choice" => choices.contains(text)
      case "pattern" => text.matches(pattern)
      case "path" => text.nonEmpty && Try(absolute(text)).isSuccess
      case _ => text.nonEmpty
    }
  }

  private[phoebe] lazy val declared: Seq[Declared] = {
    val in = getClass.getResourceAsStream("/phoebe/settings.json")
    require(in != null, "phoebe/settings.json is not in the jar")
    val root =
      try Json.read(new String(in.readAllBytes(), "UTF-8"))
      finally in.close()
    def text(n: JsonNode, field: String) = Option(n.get(field)).filterNot(_.isNull).map(_.asText)
    root.get("settings").elements().asScala.map { n =>
      Declared(
        name = n.get("name").asText,
        key = n.get("key").asText,
        kind = n.get("kind").asText,
        default = text(n, "default"),
        choices = n.get("choices").elements().asScala.map(_.asText).toSeq,
        minimum = text(n, "minimum").fold(Double.NegativeInfinity)(_.toDouble),
        maximum = text(n, "maximum").fold(Double.PositiveInfinity)(_.toDouble),
        pattern = text(n, "pattern").getOrElse(""),
        accepts = n.get("accepts").asText,
        session = n.get("session").asBoolean
      )
    }.toIndexedSeq
  }

  /** Left: the error line, naming the first setting with a bad value and what it accepts. */
  def read(conf: SparkConf): Either[String, PhoebeSettings] = {
    val set = declared.flatMap(d => conf.getOption(d.key).map(d -> _))
    errors(set).headOption.toLeft {
      val defaults = declared.flatMap(d => d.default.map(d.name -> _)).toMap
      val python = "python" -> pythonOf(conf, sys.env)
      new PhoebeSettings(defaults + python ++ set.map { case (d, v) => d.name -> v.trim })
    }
  }

  /** For executors, which are started with the application's settings, good or bad. */
  private[phoebe] def uploadThreads(conf: SparkConf): Int =
    read(conf).map(_.uploadThreads).getOrElse(1)

  /** For tasks, and for readers outside of any Spark application. */
  def readTimeoutMs: Long =
    Option(SparkEnv.get).flatMap(env => read(env.conf).toOption).fold(
      RangeFetcher.DefaultTimeoutMs
    )(_.readTimeoutMs)

  /** Keys under `spark.phoebe.` that no setting declares: most likely misspelt. */
  def unknownKeys(conf: SparkConf): Seq[String] = {
    val known = declared.map(_.key).toSet
    conf.getAll.map(_._1).filter(k => k.startsWith("spark.phoebe.") && !known(k)).toSeq.sorted
  }

  private def errors(set: Seq[(Declared, String)]): Seq[String] = set.collect {
    case (d, text) if !d.isValid(text.trim) => s"${d.key}='$text': accepts ${d.accepts}"
  }

  /** Notebook front ends are started through `PYSPARK_DRIVER_PYTHON` too, and cannot run a module. */
  private[phoebe] def pythonOf(conf: SparkConf, env: Map[String, String]): String =
    Seq(
      conf.getOption("spark.pyspark.driver.python"),
      conf.getOption("spark.pyspark.python"),
      env.get("PYSPARK_DRIVER_PYTHON"),
      env.get("PYSPARK_PYTHON")
    ).flatten
      .map(_.trim)
      .find(p => p.nonEmpty && !new File(p).getName.matches("(jupyter|ipython).*"))
      .getOrElse("python3")

  private[phoebe] def absolute(text: String): Path = {
    val expanded =
      if (text == "~" || text.startsWith("~/")) System.getProperty("user.home") + text.drop(1)
      else text
    val path = new Path(expanded)
    if (path.toUri.getScheme != null) path
    else new Path(new URI("file", null, new File(expanded).getAbsolutePath, null))
  }

  /** `/a/b` for `file:/a/b`; anything else as it is. */
  def plain(path: Path): String =
    if (path.toUri.getScheme == "file") path.toUri.getPath else path.toString
}
