package phoebe.exchange

import org.apache.spark.sql.catalyst.plans.physical._
import org.apache.spark.sql.catalyst.util.UnsafeRowUtils
import org.apache.spark.sql.execution.{phoebe => _, _}
import org.apache.spark.sql.execution.adaptive.{
  AdaptiveSparkPlanExec,
  AQEShuffleReadExec,
  QueryStageExec
}
import org.apache.spark.sql.execution.aggregate.BaseAggregateExec
import org.apache.spark.sql.execution.exchange.{
  BroadcastExchangeLike,
  ReusedExchangeExec,
  ShuffleExchangeLike
}
import org.apache.spark.sql.execution.joins._
import org.apache.spark.sql.execution.phoebe.exchange.RestoredInputExec
import phoebe.fingerprint.RowOrder

/**
 * Whether a recomputed boundary gives each of its reduce partitions the same rows, in any order, for any
 * distribution of its input over tasks. Then tasks that have read whole reduce partitions of the first
 * computation keep their results, together with tasks that read the second one.
 *
 * An allow-list: any other boundary is recomputed with all its readers, as Spark does for an
 * indeterminate stage. Partial aggregates count like the final ones, since a task merges all rows of a
 * partition.
 */
object Reproducible {

  def apply(exchange: ShuffleExchangeLike): Boolean =
    isByValue(exchange.outputPartitioning) && rows(exchange)

  /** Whether a row's value alone determines its partition. */
  private def isByValue(partitioning: Partitioning): Boolean = partitioning match {
    case _: HashPartitioning | SinglePartition => true
    case _ => false // the bounds of ranges are sampled; a round robin starts at any partition
  }

  private def rows(plan: SparkPlan): Boolean = {
    val below: Seq[SparkPlan] = plan match {
      case stage: QueryStageExec => Seq(stage.plan)
      case adaptive: AdaptiveSparkPlanExec => Seq(adaptive.executedPlan)
      case reused: ReusedExchangeExec => Seq(reused.child)
      case reused: ReusedSubqueryExec => Seq(reused.child)
      case input: RestoredInputExec => Seq(input.original)
      // They only prune rows that do not change the result.
      case _: SubqueryAdaptiveBroadcastExec | _: SubqueryBroadcastExec => Nil
      case other => other.children ++ other.subqueries
    }
    itself(plan) && below.forall(rows)
  }

  private def itself(plan: SparkPlan): Boolean = plan match {
    case _: FileSourceScanLike | _: LocalTableScanExec | _: RangeExec => true
    case _: QueryStageExec | _: AdaptiveSparkPlanExec | _: AQEShuffleReadExec => true
    case _: ReusedExchangeExec | _: ShuffleExchangeLike | _: BroadcastExchangeLike => true
    case _: BaseSubqueryExec | _: RestoredInputExec => true
    case _: ProjectExec | _: FilterExec | _: UnionExec | _: ExpandExec | _: GenerateExec => true
    case _: SortExec | _: CoalesceExec | _: WholeStageCodegenExec | _: InputAdapter => true
    case _: ColumnarToRowExec => true
    case _: HashJoin | _: SortMergeJoinExec | _: BroadcastNestedLoopJoinExec |
        _: CartesianProductExec => true
    case aggregate: BaseAggregateExec =>
      aggregate.groupingExpressions.forall(e => UnsafeRowUtils.isBinaryStable(e.dataType)) &&
      aggregate.aggregateExpressions.map(_.aggregateFunction)
        .forall(RowOrder.isExact)
    case _ => false
  }
}
