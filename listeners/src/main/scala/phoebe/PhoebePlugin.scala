package phoebe

import org.apache.spark.api.plugin.{DriverPlugin, ExecutorPlugin, SparkPlugin}
import phoebe.plugin.{PhoebeDriverPlugin, PhoebeExecutorPlugin}

/**
 * What a user names in `spark.plugins`. No logic: both sides live in `phoebe.plugin`.
 */
class PhoebePlugin extends SparkPlugin {
  override def driverPlugin(): DriverPlugin =
    FailSafe("plugin", null: DriverPlugin)(new PhoebeDriverPlugin)

  override def executorPlugin(): ExecutorPlugin =
    FailSafe("plugin", null: ExecutorPlugin)(new PhoebeExecutorPlugin)
}
