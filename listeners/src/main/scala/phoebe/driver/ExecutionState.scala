package phoebe.driver

import java.util.concurrent.ConcurrentHashMap

import scala.jdk.CollectionConverters._

import org.apache.spark.sql.classic.SparkSession
import org.apache.spark.sql.execution.SparkPlan
import org.apache.spark.sql.execution.exchange.ShuffleExchangeExec
import phoebe.Reason
import phoebe.fingerprint.{Fingerprint, FingerprintBreakdown, Fingerprinter, Inputs, Refusal}
import phoebe.store.CommittedCheckpoint

/** The decision for one fingerprint within one SQL execution. It holds for all its exchanges. */
private[phoebe] sealed trait Verdict {
  def reason: Reason

  /** Whether another node replaces Spark's exchange. */
  def replaces: Boolean
}
private[phoebe] object Verdict {
  final case class Skip(reason: Reason) extends Verdict {
    override val replaces = false
  }

  final case class Write(reason: Reason, inputs: Inputs) extends Verdict {
    override val replaces = true
  }

  final case class Restore(reason: Reason, checkpoint: CommittedCheckpoint, inputs: Inputs)
      extends Verdict {
    override val replaces = true
  }
}

/** The verdicts of one SQL execution, over all its fragments (main plan and subqueries). */
private[phoebe] final class ExecutionState {
  import ExecutionState._

  /** The time of its first plan. */
  val startedNs: Long = System.nanoTime()
  private val startedMs = System.currentTimeMillis()
  val verdicts = new ConcurrentHashMap[String, Verdict]()

  private var fingerprinter: Fingerprinter = _
  private var passedOver = Seq.empty[(SparkPlan, Seq[SparkPlan], Reason)]

  /**
   * Fingerprints of a plan's exchanges, remembered over all plans of the execution. Skipped fragments
   * are fingerprinted first: what they compute without a decision must be computed everywhere.
   */
  def fingerprints(
      session: SparkSession,
      plan: SparkPlan,
      exchanges: Seq[SparkPlan]
  ): Seq[Either[Refusal, Fingerprint]] = synchronized {
    if (fingerprinter == null) fingerprinter = new Fingerprinter(session, startedMs)
    val earlier = passedOver
    passedOver = Nil
    earlier.foreach { case (fragment, shuffles, reason) =>
      fingerprinter(fragment, shuffles).flatMap(_.toOption).foreach(f =>
        verdicts.putIfAbsent(f.hash, Verdict.Skip(reason))
      )
    }
    fingerprinter(plan, exchanges)
  }

  /** The inputs of a fingerprint of the current plan. */
  def inputs(fingerprint: Fingerprint): Inputs = synchronized(fingerprinter.inputs(fingerprint))

  /** The parts of the current plan's fingerprints. */
  def parts: FingerprintBreakdown = synchronized(fingerprinter.parts)

  /** Skips a fragment in which nothing can be checkpointed or restored: it gets no fingerprints. */
  def passOver(plan: SparkPlan, exchanges: Seq[SparkPlan], reason: Reason): Unit = synchronized {
    passedOver = passedOver :+ ((plan, exchanges, reason))
  }

  /** Fingerprints whose checkpoints were committed or abandoned, and reported as such. */
  val settled: java.util.Set[String] = ConcurrentHashMap.newKeySet[String]()

  /** Fingerprints to be written that never ran: adaptive execution dropped or changed the exchange. */
  def unsettled: Seq[String] = verdicts.asScala.collect {
    case (fingerprint, _: Verdict.Write) if !settled.contains(fingerprint) => fingerprint
  }.toSeq

  /** The verdict by which the exchanges of a fingerprint are replaced, if they are. */
  def replacement(fingerprint: String): Option[Verdict] =
    Option(verdicts.get(fingerprint)).filter(_.replaces)

  /** Whether the verdict on a fingerprint leaves its exchanges unchanged. */
  def isSkipped(fingerprint: String): Boolean =
    Option(verdicts.get(fingerprint)).exists(!_.replaces)

  private val together = ConcurrentHashMap.newKeySet[String]()

  /** Notes fingerprints that are restored together or not at all ([[Consumers]]). */
  def link(fingerprints: Set[String]): Unit = fingerprints.foreach(together.add)

  def isLinked(fingerprint: String): Boolean = together.contains(fingerprint)

  /** Exchanges that are not replaced, although [[mayReplace]] is true for them. */
  val staying = new ReplanSkipCache

  private val replaced = ConcurrentHashMap.newKeySet[Outline]()

  /** Notes an exchange whose verdict replaces it. */
  def replacing(exchange: ShuffleExchangeExec): Unit = replaced.add(outline(exchange))

  /**
   * Whether an exchange of a re-plan can have the fingerprint of a replaced exchange, by its outline.
   * The fingerprint itself would cost a walk over the whole subtree.
   */
  def mayReplace(exchange: ShuffleExchangeExec): Boolean = replaced.contains(outline(exchange))

  /** Whether any exchange of a re-plan may have to be replaced. */
  def replaces: Boolean = verdicts.values.asScala.exists(_.replaces)
}

private[phoebe] object ExecutionState {
  private final case class Outline(partitioning: Class[_], partitions: Int, types: Seq[String])

  private def outline(exchange: ShuffleExchangeExec): Outline = {
    val partitioning = exchange.outputPartitioning
    Outline(
      partitioning.getClass,
      partitioning.numPartitions,
      exchange.output.map(_.dataType.catalogString)
    )
  }
}
