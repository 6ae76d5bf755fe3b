package phoebe.plugin

import java.util.{Map => JMap}

import org.apache.spark.api.plugin.{ExecutorPlugin, PluginContext}
import org.apache.spark.sql.execution.phoebe.executor.ExecutorCheckpoints
import phoebe.FailSafe

/** The executor side of the plugin: tells the driver the executor's address, and nothing else. */
final class PhoebeExecutorPlugin extends ExecutorPlugin {
  override def init(context: PluginContext, fromDriver: JMap[String, String]): Unit =
    if (fromDriver.containsKey(PhoebeExecutorPlugin.Greets)) {
      // On a separate thread: Spark's start-up must not wait for the driver's answer.
      val thread =
        new Thread(() => FailSafe.run("greet")(ExecutorCheckpoints.greet()), "phoebe-greet")
      thread.setDaemon(true)
      thread.start()
    }
}

object PhoebeExecutorPlugin {
  private[phoebe] val Greets = "greets"
}
