package phoebe.driver

import org.apache.spark.sql.execution.exchange.ShuffleExchangeExec

/**
 * The exchanges that an execution's last re-plan, of any fragment, left unchanged. Most re-plans change
 * a branch or two and plan the others again, node for node the same. Their fingerprints need not be
 * computed again. The cache only skips exchanges; an exchange is replaced only by its fingerprint.
 */
private[phoebe] final class ReplanSkipCache {
  @volatile private var last = Set.empty[ShuffleExchangeExec]

  def apply(exchange: ShuffleExchangeExec): Boolean = last(exchange)

  /** Sets the unchanged exchanges of the current plan, and forgets those of earlier plans. */
  def remember(exchanges: Seq[ShuffleExchangeExec]): Unit = last = exchanges.toSet
}
