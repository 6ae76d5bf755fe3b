package org.apache.spark.sql.execution.phoebe

import java.util.concurrent.ConcurrentHashMap

import scala.jdk.CollectionConverters._

import org.apache.spark.sql.catalyst.plans.logical.LogicalPlan
import org.apache.spark.sql.catalyst.plans.physical.Partitioning
import org.apache.spark.sql.classic.SparkSession
import org.apache.spark.sql.execution.SparkPlan
import org.apache.spark.sql.execution.exchange.ShuffleExchangeExec
import org.apache.spark.sql.execution.phoebe.fingerprint.{Fingerprint, Fingerprinter, Refusal}
import org.apache.spark.sql.execution.phoebe.store.CommittedCheckpoint

/** What was decided for one fingerprint within one SQL execution; it holds for all its exchanges. */
private[phoebe] sealed trait Verdict { def reason: Reason }
private[phoebe] object Verdict {
  final case class Skip(reason: Reason) extends Verdict

  /** `inputsUnchanged` looks at the planned input files again. */
  final case class Write(reason: Reason, inputsUnchanged: () => Boolean) extends Verdict
  final case class Restore(reason: Reason, checkpoint: CommittedCheckpoint) extends Verdict
}

/** The verdicts of one SQL execution, over all its fragments (main plan and subqueries). */
private[phoebe] final class ExecutionState {
  import ExecutionState._

  /** When its first plan was seen. */
  val startedNs: Long = System.nanoTime()
  val verdicts = new ConcurrentHashMap[String, Verdict]()

  private var fingerprinter: Fingerprinter = _
  private var passedOver = Seq.empty[(SparkPlan, Seq[SparkPlan], Reason)]

  /**
   * Fingerprints of a plan's exchanges, remembered over all plans of the execution. Fragments that
   * were passed over come first: what they compute without a word is computed by all.
   */
  def fingerprints(
      session: SparkSession,
      plan: SparkPlan,
      exchanges: Seq[SparkPlan]
  ): Seq[Either[Refusal, Fingerprint]] = synchronized {
    if (fingerprinter == null) fingerprinter = new Fingerprinter(session)
    val earlier = passedOver
    passedOver = Nil
    earlier.foreach { case (fragment, shuffles, reason) =>
      fingerprinter(fragment, shuffles).flatMap(_.toOption).foreach(f =>
        verdicts.putIfAbsent(f.hash, Verdict.Skip(reason))
      )
    }
    fingerprinter(plan, exchanges)
  }

  /** A fragment in which nothing can be checkpointed or restored: its exchanges get no look. */
  def passOver(plan: SparkPlan, exchanges: Seq[SparkPlan], reason: Reason): Unit = synchronized {
    passedOver = passedOver :+ ((plan, exchanges, reason))
  }

  /** Fingerprints whose checkpoints were committed or abandoned, with a word on it. */
  val settled: java.util.Set[String] = ConcurrentHashMap.newKeySet[String]()

  /** What was to be written and never got as far: adaptive execution dropped or changed it. */
  def unsettled: Seq[String] = verdicts.asScala.collect {
    case (fingerprint, _: Verdict.Write) if !settled.contains(fingerprint) => fingerprint
  }.toSeq

  private val replaced = ConcurrentHashMap.newKeySet[Outline]()
  private val looks = new ConcurrentHashMap[Origin, java.lang.Boolean]()

  /** The fingerprint of an exchange has a verdict: whether it is replaced. */
  def looked(exchange: ShuffleExchangeExec, isReplaced: Boolean): Unit = {
    if (isReplaced) replaced.add(outline(exchange))
    origin(exchange).foreach(looks.merge(_, isReplaced, _ || _))
  }

  /**
   * Whether an exchange of a re-plan can have a fingerprint by which one was replaced, which costs a
   * look at all that is below and at the settings: not with another outline, and not where it stands
   * for what was left alone before.
   */
  def mayReplace(exchange: ShuffleExchangeExec): Boolean =
    replaced.contains(outline(exchange)) &&
      origin(exchange).forall(looks.getOrDefault(_, true).booleanValue)

  /** Whether any exchange of a re-plan can need replacing. */
  def replaces: Boolean = verdicts.values.asScala.exists {
    case _: Verdict.Skip => false
    case _ => true
  }
}

private[phoebe] object ExecutionState {
  private final case class Outline(partitioning: Class[_], partitions: Int, types: Seq[String])

  /** What a shuffle stands for: re-plans keep the logical nodes under which nothing has changed. */
  private final class Origin(val logical: LogicalPlan, val partitioning: Partitioning) {
    override def hashCode: Int = 31 * System.identityHashCode(logical) + partitioning.hashCode
    override def equals(other: Any): Boolean = other match {
      case o: Origin => (o.logical eq logical) && o.partitioning == partitioning
      case _ => false
    }
  }

  private def origin(exchange: ShuffleExchangeExec): Option[Origin] =
    exchange.logicalLink.orElse(exchange.child.logicalLink)
      .map(new Origin(_, exchange.outputPartitioning))

  private def outline(exchange: ShuffleExchangeExec): Outline = {
    val partitioning = exchange.outputPartitioning
    Outline(
      partitioning.getClass,
      partitioning.numPartitions,
      exchange.output.map(_.dataType.catalogString)
    )
  }
}
