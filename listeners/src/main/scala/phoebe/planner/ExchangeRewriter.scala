package phoebe.planner

import org.apache.spark.sql.execution.SparkPlan
import org.apache.spark.sql.execution.exchange.ShuffleExchangeExec
import org.apache.spark.sql.execution.phoebe.exchange.{
  CheckpointExchangeExec,
  RestoredExchangeExec,
  RestoredInputExec
}
import phoebe.driver.{CheckpointRuntime, Verdict}

/** Replaces Spark's exchanges by ours, according to their verdicts. */
private[phoebe] object ExchangeRewriter {

  /** Replaces exchanges, downstream first; everything below a restored one is removed. */
  def apply(plan: SparkPlan, id: Long, runtime: CheckpointRuntime)(
      verdictOf: ShuffleExchangeExec => Option[(String, Verdict)]
  ): SparkPlan = plan.transformDown {
    case exchange: ShuffleExchangeExec =>
      verdictOf(exchange) match {
        case Some((hash, _: Verdict.Write)) =>
          CheckpointExchangeExec(
            exchange.outputPartitioning,
            exchange.child,
            exchange.shuffleOrigin,
            exchange.advisoryPartitionSize,
            hash,
            id
          )(runtime)
        case Some((hash, Verdict.Restore(_, checkpoint, inputs))) =>
          val input = RestoredInputExec(exchange.child.output)(exchange.child)
          // AQE finds a stage's logical node by these tags.
          input.copyTagsFrom(exchange.child)
          if (input.logicalLink.isEmpty) {
            exchange.child.collectFirst { case p if p.logicalLink.isDefined => p.logicalLink.get }
              .foreach(input.setLogicalLink)
          }
          RestoredExchangeExec(
            exchange.outputPartitioning,
            input,
            exchange.shuffleOrigin,
            exchange.advisoryPartitionSize,
            hash,
            id
          )(checkpoint, inputs, runtime)
        case _ => exchange
      }
  }
}
