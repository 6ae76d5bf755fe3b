package phoebe.driver

import java.util.concurrent.ConcurrentHashMap

import scala.jdk.CollectionConverters._

import org.apache.spark.sql.classic.SparkSession
import org.apache.spark.sql.execution.SparkPlan
import org.apache.spark.sql.execution.exchange.ShuffleExchangeExec
import phoebe.Reason
import phoebe.fingerprint.{Fingerprint, FingerprintBreakdown, Fingerprinter, Inputs, Refusal}
import phoebe.store.CommittedCheckpoint

/** What was decided for one fingerprint within one SQL execution; it holds for all its exchanges. */
private[phoebe] sealed trait Verdict {
  def reason: Reason

  /** Whether another node takes the place of Spark's exchange. */
  def replaces: Boolean
}
private[phoebe] object Verdict {
  final case class Skip(reason: Reason) extends Verdict {
    override val replaces = false
  }

  final case class Write(reason: Reason, inputs: Inputs) extends Verdict {
    override val replaces = true
  }

  final case class Restore(reason: Reason, checkpoint: CommittedCheckpoint) extends Verdict {
    override val replaces = true
  }
}

/** The verdicts of one SQL execution, over all its fragments (main plan and subqueries). */
private[phoebe] final class ExecutionState {
  import ExecutionState._

  /** When its first plan was seen. */
  val startedNs: Long = System.nanoTime()
  private val startedMs = System.currentTimeMillis()
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

  /** The inputs of a fingerprint of the plan at hand. */
  def inputs(fingerprint: Fingerprint): Inputs = synchronized(fingerprinter.inputs(fingerprint))

  /** What the fingerprints of the plan at hand are made of. */
  def parts: FingerprintBreakdown = synchronized(fingerprinter.parts)

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

  /** The verdict by which the exchanges of a fingerprint are replaced, if they are. */
  def replacement(fingerprint: String): Option[Verdict] =
    Option(verdicts.get(fingerprint)).filter(_.replaces)

  /** Whether it is settled that the exchanges of a fingerprint are left as they are. */
  def isSkipped(fingerprint: String): Boolean =
    Option(verdicts.get(fingerprint)).exists(!_.replaces)

  private val together = ConcurrentHashMap.newKeySet[String]()

  /** These are restored together or not at all ([[Consumers]]). */
  def link(fingerprints: Set[String]): Unit = fingerprints.foreach(together.add)

  def isLinked(fingerprint: String): Boolean = together.contains(fingerprint)

  /** Exchanges that nothing replaces, though [[mayReplace]] cannot tell. */
  val staying = new ReplanSkipCache

  private val replaced = ConcurrentHashMap.newKeySet[Outline]()

  /** An exchange has a verdict by which it is replaced. */
  def replacing(exchange: ShuffleExchangeExec): Unit = replaced.add(outline(exchange))

  /**
   * Whether an exchange of a re-plan can have a fingerprint by which one was replaced: it covers the
   * outline, and costs a look at all that is below.
   */
  def mayReplace(exchange: ShuffleExchangeExec): Boolean = replaced.contains(outline(exchange))

  /** Whether any exchange of a re-plan can need replacing. */
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
