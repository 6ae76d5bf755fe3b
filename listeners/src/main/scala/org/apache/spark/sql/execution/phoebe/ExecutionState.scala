package org.apache.spark.sql.execution.phoebe

import java.util.concurrent.ConcurrentHashMap

import scala.jdk.CollectionConverters._

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
  val verdicts = new ConcurrentHashMap[String, Verdict]()

  /** Fingerprints whose checkpoints were committed or abandoned, with a word on it. */
  val settled: java.util.Set[String] = ConcurrentHashMap.newKeySet[String]()

  /** What was to be written and never got as far: adaptive execution dropped or changed it. */
  def unsettled: Seq[String] = verdicts.asScala.collect {
    case (fingerprint, _: Verdict.Write) if !settled.contains(fingerprint) => fingerprint
  }.toSeq

  /** Whether any exchange of a re-plan can need replacing. */
  def replaces: Boolean = verdicts.values.asScala.exists {
    case _: Verdict.Skip => false
    case _ => true
  }
}
