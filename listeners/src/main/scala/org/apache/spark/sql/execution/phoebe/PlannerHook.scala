package org.apache.spark.sql.execution.phoebe

import org.apache.spark.sql.SparkSession
import org.apache.spark.sql.catalyst.rules.Rule
import org.apache.spark.sql.execution.SparkPlan

/** Sees each adaptive plan; today it leaves every plan as it is. */
case class PlannerHook(session: SparkSession) extends Rule[SparkPlan] {
  override def apply(plan: SparkPlan): SparkPlan = plan
}
