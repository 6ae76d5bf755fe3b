package phoebe

import org.apache.spark.api.plugin.{DriverPlugin, ExecutorPlugin, SparkPlugin}
import org.apache.spark.sql.execution.phoebe.{Guard, PhoebeDriverPlugin}

/**
 * What a user names in `spark.plugins`. No logic: the driver side lives in
 * `org.apache.spark.sql.execution.phoebe`, executors need no plugin.
 */
class PhoebePlugin extends SparkPlugin {
  override def driverPlugin(): DriverPlugin =
    Guard("plugin", null: DriverPlugin)(new PhoebeDriverPlugin)

  override def executorPlugin(): ExecutorPlugin = null
}
