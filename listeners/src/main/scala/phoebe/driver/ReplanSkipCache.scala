package phoebe.driver

import org.apache.spark.sql.execution.exchange.ShuffleExchangeExec

/**
 * The exchanges of an execution's last re-plan, of whichever fragment, that nothing replaces. Most
 * re-plans change a branch or two and plan the others anew, node for node the same: their
 * fingerprints need not be worked out again. This is only ever a reason to leave an exchange as it
 * is: one is replaced by its fingerprint alone.
 */
private[phoebe] final class ReplanSkipCache {
  @volatile private var last = Set.empty[ShuffleExchangeExec]

  def apply(exchange: ShuffleExchangeExec): Boolean = last(exchange)

  /** All that stay in the plan at hand; what an earlier plan had is forgotten. */
  def remember(exchanges: Seq[ShuffleExchangeExec]): Unit = last = exchanges.toSet
}
