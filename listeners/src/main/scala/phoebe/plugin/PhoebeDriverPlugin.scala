package phoebe.plugin

import java.util.{Collections, Map => JMap}

import org.apache.spark.SparkContext
import org.apache.spark.api.plugin.{DriverPlugin, PluginContext}
import org.apache.spark.internal.Logging
import org.apache.spark.sql.execution.phoebe.compat.SparkInternals
import phoebe.{FailSafe, Reason}
import phoebe.compat.SparkBuild
import phoebe.harvest.HarvestListener
import phoebe.settings.{Mode, PhoebeSettings}

/**
 * The driver side of the plugin: reads the settings, switches the planner hook on, starts to
 * listen, and starts the companion once the application has an id. A failure in any of these
 * leaves the application as if the plugin were not there.
 */
final class PhoebeDriverPlugin extends DriverPlugin with Logging {
  import PhoebeDriverPlugin._

  @volatile private var runtime: Option[PhoebeRuntime] = None

  override def init(sc: SparkContext, context: PluginContext): JMap[String, String] = {
    FailSafe.run("init") {
      PhoebeSettings.read(SparkInternals.conf(sc)) match {
        case Left(problem) => logError(s"phoebe: turned off, the job runs without it: $problem")
        case Right(settings) => install(sc, settings)
      }
    }
    if (runtime.exists(_.opensStore)) Collections.singletonMap(PhoebeExecutorPlugin.Greets, "true")
    else Collections.emptyMap()
  }

  override def registerMetrics(appId: String, context: PluginContext): Unit =
    runtime.foreach(r => FailSafe.run("start")(r.registered(appId)))

  override def shutdown(): Unit = runtime.foreach(r => FailSafe.run("shutdown")(r.shutdown()))

  private def install(sc: SparkContext, settings: PhoebeSettings): Unit = {
    PhoebeSettings.unknownKeys(SparkInternals.conf(sc)).foreach { key =>
      logWarning(s"phoebe: $key is not a setting and has no effect, see docs/settings.md")
    }
    val build = SparkBuild.here
    val reason = build.unknown(sys.env)
      .map(Reason("unknown_spark_build", _, Map("spark_version" -> build.version)))
    reason.foreach(r => logWarning(s"phoebe: observes only: ${r.message}"))
    val limit = if (reason.isEmpty) Mode.Apply else Mode.Observe
    val made = new PhoebeRuntime(sc, settings, limit, reason)
    if (made.harvesting) {
      SparkInternals.addListener(sc, new HarvestListener(made.companion.queue), QueueName)
    }
    if (reason.isEmpty) appendExtension(sc)
    PhoebeRuntime.current.set(made)
    runtime = Some(made)
  }

  /** Adds our extension to the setting, which Spark reads later; the user's extensions are kept. */
  private def appendExtension(sc: SparkContext): Unit = {
    val conf = SparkInternals.conf(sc)
    val key = SparkInternals.extensionsSetting
    val present = conf.getOption(key).toSeq.flatMap(_.split(',')).map(_.trim).filter(_.nonEmpty)
    if (!present.contains(ExtensionClass)) {
      conf.set(key, (present :+ ExtensionClass).mkString(","))
    }
  }
}

object PhoebeDriverPlugin {
  private val ExtensionClass = "phoebe.PhoebeExtensions"
  private val QueueName = "phoebe"
}
