package phoebe.testing

import org.apache.spark.rdd.RDD
import org.apache.spark.sql.SparkSessionExtensions
import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.expressions.Attribute
import org.apache.spark.sql.catalyst.plans.logical.{LogicalPlan, Sort}
import org.apache.spark.sql.catalyst.rules.Rule
import org.apache.spark.sql.execution.{
  ColumnarRule,
  SortExec,
  SparkPlan,
  SparkStrategy,
  UnaryExecNode
}

/** Extensions as accelerators and other projects bring them, which change physical plans. */
object ForeignExtensions {
  type Extension = SparkSessionExtensions => Unit

  val columnar: Extension = _.injectColumnar(_ => new ColumnarRule {})
  val preparing: Extension = _.injectQueryStagePrepRule(_ => Same)
  val optimizing: Extension = _.injectQueryStageOptimizerRule(_ => Same)
  val planning: Extension = _.injectPlannerStrategy(_ => SortsPassed)

  /** What changes logical plans only is nothing of this kind. */
  val logical: Extension = _.injectOptimizerRule(_ => SameLogical)

  object Same extends Rule[SparkPlan] {
    override def apply(plan: SparkPlan): SparkPlan = plan
  }

  object SameLogical extends Rule[LogicalPlan] {
    override def apply(plan: LogicalPlan): LogicalPlan = plan
  }

  /** Plans an operator of its own above a global sort. */
  private object SortsPassed extends SparkStrategy {
    override def apply(plan: LogicalPlan): Seq[SparkPlan] = plan match {
      case Sort(order, true, child, _) =>
        Seq(PassedExec(SortExec(order, global = true, planLater(child))))
      case _ => Nil
    }
  }
}

/** An operator that is not Spark's. */
case class PassedExec(child: SparkPlan) extends UnaryExecNode {
  override def output: Seq[Attribute] = child.output
  override protected def doExecute(): RDD[InternalRow] = child.execute()
  override protected def withNewChildInternal(newChild: SparkPlan): PassedExec =
    copy(child = newChild)
}
