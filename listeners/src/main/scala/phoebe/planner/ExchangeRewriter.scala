package phoebe.planner

import org.apache.spark.sql.execution.SparkPlan
import org.apache.spark.sql.execution.exchange.ShuffleExchangeExec
import org.apache.spark.sql.execution.phoebe.exchange.{
  CheckpointExchangeExec,
  RestoredExchangeExec,
  RestoredInputExec
}
import phoebe.driver.{CheckpointRuntime, Verdict}

/** Puts our exchanges in the place of Spark's, where a verdict says so. */
private[phoebe] object ExchangeRewriter {

  /** Replaces exchanges by their verdicts, downstream first; below a restored one nothing is left. */
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
        case Some((hash, Verdict.Restore(_, checkpoint))) =>
          val input = RestoredInputExec(exchange.child.output)(exchange.child)
          // AQE finds the logical node that a stage stands for through these tags.
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
          )(checkpoint, runtime)
        case _ => exchange
      }
  }
}
