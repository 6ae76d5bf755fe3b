package org.apache.spark.sql.execution.phoebe

import org.apache.spark.sql.SparkSession
import org.apache.spark.sql.catalyst.rules.Rule
import org.apache.spark.sql.execution.SparkPlan

/**
 * Where Spark calls us for each adaptive plan, whole at first and again after each re-plan. No
 * logic: see [[FragmentPlanner]]. Whatever goes wrong there, the plan stays as it was.
 */
case class PlannerHook(session: SparkSession) extends Rule[SparkPlan] {
  override def apply(plan: SparkPlan): SparkPlan =
    PhoebeRuntime.active.fold(plan) { runtime =>
      runtime.guard("plan", plan)(new FragmentPlanner(runtime, session).plan(plan))
    }
}
