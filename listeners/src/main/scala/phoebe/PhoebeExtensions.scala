package phoebe

import org.apache.spark.sql.SparkSessionExtensions
import phoebe.planner.PlannerHook

/** Appended to `spark.sql.extensions` by the plugin; injects the planner hook, nothing else. */
class PhoebeExtensions extends (SparkSessionExtensions => Unit) {
  override def apply(extensions: SparkSessionExtensions): Unit =
    extensions.injectQueryStagePrepRule(session => PlannerHook(session))
}
