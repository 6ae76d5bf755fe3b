package org.apache.spark.sql.execution.phoebe

import java.util.IdentityHashMap

import scala.collection.mutable

import org.apache.spark.sql.SparkSession
import org.apache.spark.sql.classic
import org.apache.spark.sql.execution.{SparkPlan, SQLExecution}
import org.apache.spark.sql.execution.adaptive.QueryStageExec
import org.apache.spark.sql.execution.exchange.ShuffleExchangeExec
import org.apache.spark.sql.execution.phoebe.store.{CatalogEntry, CommittedCheckpoint}
import org.apache.spark.sql.execution.phoebe.fingerprint.{Fingerprint, Fingerprinter}

/**
 * Puts checkpoints and restored boundaries into one adaptive plan fragment (a query's main plan or
 * one of its subqueries).
 *
 * On a fragment's first, whole plan each exchange gets a verdict: restored where the store holds
 * it, written where advice (or the test setting `force`) says so, left alone otherwise. Verdicts
 * are kept by fingerprint for the whole SQL execution, so every exchange over the same data is
 * treated alike (or exchange reuse would be lost), and a re-plan only applies them. Nothing here
 * has side effects on plans that Spark then discards.
 */
private[phoebe] final class FragmentPlanner(phoebe: PhoebeRuntime, session: SparkSession) {
  import FragmentPlanner._

  private val sc = phoebe.sparkContext
  private val advising = new Advising(phoebe)
  private val reports = new BoundaryReports(phoebe)

  def plan(plan: SparkPlan): SparkPlan = {
    val conf = session.asInstanceOf[classic.SparkSession].sessionState.conf
    phoebe.forQuery(conf) match {
      case Some((mode, settings)) if plan.exists(_.isInstanceOf[ShuffleExchangeExec]) =>
        LeftAlone.plan(sc) match {
          case Some(reason) =>
            phoebe.count(s"left_alone.${reason.code}")
            plan
          case None =>
            val id = sc.getLocalProperty(SQLExecution.EXECUTION_ID_KEY).toLong
            if (plan.exists(_.isInstanceOf[QueryStageExec])) replan(plan, id, mode)
            else firstPlan(plan, id, mode, settings)
        }
      case _ => plan
    }
  }

  private def replan(plan: SparkPlan, id: Long, mode: Mode): SparkPlan =
    if (mode != Mode.Apply) plan
    else checkpoints.map(runtime => runtime -> runtime.execution(id)) match {
      case Some((runtime, state)) if state.replaces =>
        val fingerprinter = newFingerprinter()
        Replacing(plan, id, runtime) { exchange =>
          fingerprinter(exchange).toOption.map(f => f.hash -> state.verdicts.get(f.hash)).filter(
            _._2 != null
          )
        }
      case _ => plan
    }

  private def firstPlan(
      plan: SparkPlan,
      id: Long,
      mode: Mode,
      settings: PhoebeSettings
  ): SparkPlan = {
    val boundaries = PlannedBoundary.of(plan)
    phoebe.planning.boundaries(id, boundaries.size)
    val unknownGround = LeftAlone.application
    if (boundaries.isEmpty) plan
    else if (mode == Mode.Observe || unknownGround.isDefined) {
      val reason = unknownGround.getOrElse(phoebe.limitReason.getOrElse(Observing))
      reports.observed(id, boundaries, reason)
      plan
    } else decide(plan, id, mode, settings, boundaries)
  }

  private def decide(
      plan: SparkPlan,
      id: Long,
      mode: Mode,
      settings: PhoebeSettings,
      boundaries: Seq[PlannedBoundary]
  ): SparkPlan = {
    val runtime = CheckpointRuntime.start(phoebe)
    val state = runtime.execution(id)
    val fingerprinter = newFingerprinter()
    val prints = boundaries.map(b => fingerprinter(b.exchange))
    val known =
      if (prints.exists(_.isRight)) runtime.known() else Map.empty[String, Seq[CatalogEntry]]

    // Downstream first (pre-order): what lies upstream of a restored boundary needs no look.
    val restores = mutable.Map.empty[String, Verdict.Restore]
    val damaged = mutable.Map.empty[String, Reason]
    val vanished = new IdentityHashMap[SparkPlan, java.lang.Boolean]
    if (mode == Mode.Apply) {
      boundaries.zip(prints).foreach {
        case (b, Right(print))
            if known.contains(print.hash) && !vanished.containsKey(b.exchange) &&
              mayRestore(state.verdicts.get(print.hash)) =>
          if (!restores.contains(print.hash)) {
            runtime.restorer.admit(known(print.hash)) match {
              case Right(checkpoint) =>
                restores(print.hash) =
                  Verdict.Restore(restoredReason(checkpoint), checkpoint)
              case Left(reason) => damaged(print.hash) = reason
            }
          }
          if (restores.contains(print.hash)) b.exchange.child.foreach(vanished.put(_, true))
        case _ =>
      }
    }

    val open = boundaries.zip(prints).filter { case (b, print) =>
      print.isRight && !vanished.containsKey(b.exchange) && !restores.contains(
        print.toOption.get.hash
      )
    }
    val restorable = if (mode == Mode.Apply) restores.keySet.toSet else known.keySet
    val advised = advising(plan, id, settings, boundaries, prints, restorable, open)
    // The first fragment's word holds: an exchange of a subquery that was planned already cannot
    // be changed, and two kinds of exchange over the same data would not be reused.
    open.groupBy(_._2.toOption.get.hash).foreach { case (hash, same) =>
      val choices = same.flatMap { case (b, _) => advised.choices.get(b.node) }
      val verdict = choices.find(_._1).orElse(choices.headOption) match {
        case Some((true, reason, _)) =>
          val inputs = same.head._2.toOption.get.inputs
          Verdict.Write(reason, () => fingerprinter.unchanged(inputs))
        case Some((false, reason, _)) => Verdict.Skip(damaged.getOrElse(hash, reason))
        case None => Verdict.Skip(damaged.getOrElse(hash, advised.otherwise))
      }
      state.verdicts.putIfAbsent(hash, verdict)
    }
    restores.foreach { case (hash, verdict) => state.verdicts.putIfAbsent(hash, verdict) }

    val byNode = new IdentityHashMap[SparkPlan, Fingerprint]
    boundaries.zip(prints).foreach { case (b, print) => print.foreach(byNode.put(b.exchange, _)) }
    val result =
      if (mode == Mode.Apply) {
        Replacing(plan, id, runtime) { exchange =>
          Option(byNode.get(exchange)).map(f => f.hash -> state.verdicts.get(f.hash)).filter(
            _._2 != null
          )
        }
      } else plan
    reports.decided(id, mode, boundaries, prints, vanished, state, advised, result)
    result
  }

  /** What an earlier fragment of this execution planned to compute is computed here too. */
  private def mayRestore(earlier: Verdict): Boolean = earlier match {
    case null | _: Verdict.Restore => true
    case _ => false
  }

  private def checkpoints: Option[CheckpointRuntime] = Option(phoebe.slot.get()).collect {
    case runtime: CheckpointRuntime => runtime
  }

  private def newFingerprinter(): Fingerprinter =
    new Fingerprinter(session.asInstanceOf[classic.SparkSession])
}

private[phoebe] object FragmentPlanner {

  private val Observing = Reason("observing", "mode is observe: nothing is decided")

  private def restoredReason(checkpoint: CommittedCheckpoint) = {
    val manifest = checkpoint.manifest
    Reason(
      "restored",
      s"application ${manifest.appId} left ${manifest.bytes} bytes of it in the store",
      Map("from_app_id" -> manifest.appId, "bytes" -> manifest.bytes)
    )
  }
}
