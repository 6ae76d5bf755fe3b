package org.apache.spark.sql.execution.phoebe

import org.apache.spark.sql.SparkSession
import org.apache.spark.sql.catalyst.rules.Rule
import org.apache.spark.sql.execution.{SparkPlan, SQLExecution}

/**
 * Where Spark calls us for each adaptive plan, whole at first and again after each re-plan. No
 * logic: see [[FragmentPlanner]]. Whatever goes wrong there, the plan stays as it was.
 */
case class PlannerHook(session: SparkSession) extends Rule[SparkPlan] {
  override def apply(plan: SparkPlan): SparkPlan =
    PhoebeRuntime.active.fold(plan) { runtime =>
      val began = System.nanoTime()
      try runtime.guard("plan", plan)(new FragmentPlanner(runtime, session).plan(plan))
      finally runtime.guard("planning times", ())(record(runtime, System.nanoTime() - began))
    }

  private def record(runtime: PhoebeRuntime, nanos: Long): Unit =
    Option(runtime.sparkContext.getLocalProperty(SQLExecution.EXECUTION_ID_KEY))
      .foreach(id => runtime.planning.pass(id.toLong, nanos))
}
