package phoebe.planner

import org.apache.spark.sql.{classic, SparkSession}
import org.apache.spark.sql.catalyst.rules.Rule
import org.apache.spark.sql.execution.{SparkPlan, SQLExecution}
import phoebe.FailSafe
import phoebe.plugin.PhoebeRuntime

/**
 * Spark calls this rule for each adaptive plan: first for the whole plan, then after each re-plan. No
 * logic: see [[FragmentPlanner]]. If that fails, the plan stays unchanged.
 */
case class PlannerHook(session: SparkSession) extends Rule[SparkPlan] {
  override def apply(plan: SparkPlan): SparkPlan =
    PhoebeRuntime.active.fold(plan) { runtime =>
      val began = System.nanoTime()
      val planner = new FragmentPlanner(runtime, session.asInstanceOf[classic.SparkSession])
      try FailSafe("plan", plan)(planner.plan(plan))
      finally FailSafe.run("planning times") {
          Option(runtime.sparkContext.getLocalProperty(SQLExecution.EXECUTION_ID_KEY))
            .foreach(id => runtime.planning.pass(id.toLong, System.nanoTime() - began))
        }
    }
}
