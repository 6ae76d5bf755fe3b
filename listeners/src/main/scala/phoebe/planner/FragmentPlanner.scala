package phoebe.planner

import java.util.IdentityHashMap

import org.apache.spark.sql.classic.SparkSession
import org.apache.spark.sql.execution.{SparkPlan, SQLExecution}
import org.apache.spark.sql.execution.exchange.ShuffleExchangeExec
import phoebe.Reason
import phoebe.driver.{CheckpointRuntime, ExecutionState, Verdict}
import phoebe.fingerprint.{Fingerprint, Refusal, ReplanMatcher}
import phoebe.plugin.PhoebeRuntime
import phoebe.settings.{Force, Mode, PhoebeSettings}

/**
 * Puts checkpoints and restored boundaries into one adaptive plan fragment (a query's main plan or
 * one of its subqueries).
 *
 * On a fragment's first plan each exchange gets a verdict: restore it if the store has it, write it if
 * advice (or the test setting `force`) says so, else leave it unchanged. Verdicts are kept by
 * fingerprint for the whole SQL execution. So every exchange over the same data is treated alike
 * (otherwise exchange reuse would be lost), and a re-plan only applies them. Spark discards some plans:
 * planning them has no side effects.
 */
private[phoebe] final class FragmentPlanner(phoebe: PhoebeRuntime, session: SparkSession) {
  import FragmentPlanner._

  private val sc = phoebe.sparkContext
  private val advising = new Advising(phoebe)
  private val reports = new BoundaryReports(phoebe)

  def plan(plan: SparkPlan): SparkPlan = {
    val conf = session.sessionState.conf
    phoebe.forQuery(conf) match {
      case Some((mode, settings)) if plan.exists(_.isInstanceOf[ShuffleExchangeExec]) =>
        SupportChecks.plan(sc) match {
          case Some(reason) =>
            phoebe.count(s"left_alone.${reason.code}")
            plan
          case None =>
            val id = sc.getLocalProperty(SQLExecution.EXECUTION_ID_KEY).toLong
            if (ReplanMatcher.isReplan(plan)) replan(plan, id, mode)
            else firstPlan(plan, id, mode, settings)
        }
      case _ => plan
    }
  }

  private def replan(plan: SparkPlan, id: Long, mode: Mode): SparkPlan =
    if (mode != Mode.Apply) plan
    else checkpoints.flatMap(runtime => runtime.running(id).map(runtime -> _)) match {
      case Some((runtime, state)) if state.replaces && SupportChecks.operators(plan).isEmpty =>
        val (stay, exchanges) = plan.collect {
          case exchange: ShuffleExchangeExec if state.mayReplace(exchange) => exchange
        }.partition(state.staying(_))
        val prints =
          if (exchanges.isEmpty) Nil else state.fingerprints(session, plan, exchanges)
        val staysFromNow = exchanges.zip(prints).collect {
          case (exchange, Right(f)) if state.isSkipped(f.hash) => exchange
        }
        state.staying.remember(stay ++ staysFromNow)
        replaced(plan, id, runtime, state, exchanges, prints)
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
    if (boundaries.isEmpty) plan
    else {
      val unknownGround = phoebe.unknownGround
        .orElse(SupportChecks.session(session))
        .orElse(SupportChecks.operators(plan))
      if (mode == Mode.Observe || unknownGround.isDefined) {
        val reason = unknownGround.getOrElse(phoebe.limitReason.getOrElse(Observing))
        if (mode != Mode.Observe) phoebe.observesOnly(reason)
        reports.skipped(id, boundaries, reason)
        plan
      } else decide(plan, id, mode, settings, boundaries)
    }
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
    val known = runtime.known()
    val noStore = if (mode == Mode.Apply) runtime.noStore else None
    val forced = settings.force != Force.None
    val long = !forced && advising.isLong(plan, settings)
    if (noStore.isEmpty && (forced || long || (mode == Mode.Apply && known.nonEmpty))) {
      val shown =
        if (long) advising.show(plan, id, settings, boundaries)
        else Left(Advising.shortQuery(settings))
      val exchanges = boundaries.map(_.exchange)
      val prints = state.fingerprints(session, plan, exchanges)
      val restores =
        if (mode != Mode.Apply) RestorePlan.none
        else RestorePlan.of(runtime, session, state, plan, id, known, boundaries, prints)
      val open = boundaries.zip(prints).collect {
        case (b, Right(f)) if !restores.isUpstream(b) && !restores.verdicts.contains(f.hash) =>
          b -> f
      }
      val restorable = if (mode == Mode.Apply) restores.verdicts.keySet else known.keySet
      val advised = advising(id, settings, shown, boundaries, prints, restorable, open)
      settle(state, open, advised, restores)
      val result =
        if (mode == Mode.Apply) replaced(plan, id, runtime, state, exchanges, prints) else plan
      reports.decided(id, boundaries, prints, restores, state, advised, result)
      result
    } else {
      // A fingerprint would have no effect.
      val reason = noStore.getOrElse(Advising.shortQuery(settings))
      state.passOver(plan, boundaries.map(_.exchange), reason)
      reports.skipped(id, boundaries, reason)
      plan
    }
  }

  /**
   * Sets the verdicts on a fragment's fingerprints. The first fragment's decision is final: an exchange of
   * a subquery that was planned already cannot be changed, and two kinds of exchange over the same data
   * would not be reused.
   */
  private def settle(
      state: ExecutionState,
      open: Seq[(PlannedBoundary, Fingerprint)],
      advised: Advised,
      restores: RestorePlan
  ): Unit = {
    open.groupBy(_._2.hash).foreach { case (hash, same) =>
      val choices = same.flatMap { case (b, _) => advised.choices.get(b.node) }
      val verdict = choices.find(_._1).orElse(choices.headOption) match {
        case Some((true, reason, _)) =>
          Verdict.Write(reason, state.inputs(same.head._2))
        case Some((false, reason, _)) => Verdict.Skip(restores.refused.getOrElse(hash, reason))
        case None => Verdict.Skip(restores.refused.getOrElse(hash, advised.otherwise))
      }
      state.verdicts.putIfAbsent(hash, verdict)
    }
    restores.verdicts.foreach { case (hash, verdict) => state.verdicts.putIfAbsent(hash, verdict) }
  }

  private def replaced(
      plan: SparkPlan,
      id: Long,
      runtime: CheckpointRuntime,
      state: ExecutionState,
      exchanges: Seq[ShuffleExchangeExec],
      prints: Seq[Either[Refusal, Fingerprint]]
  ): SparkPlan = {
    val verdicts = new IdentityHashMap[SparkPlan, (String, Verdict)]
    exchanges.zip(prints).foreach { case (exchange, print) =>
      print.foreach { f =>
        state.replacement(f.hash).foreach { verdict =>
          state.replacing(exchange)
          verdicts.put(exchange, f.hash -> verdict)
        }
      }
    }
    if (verdicts.isEmpty) plan
    else ExchangeRewriter(plan, id, runtime)(exchange => Option(verdicts.get(exchange)))
  }

  private def checkpoints: Option[CheckpointRuntime] = Option(phoebe.slot.get()).collect {
    case runtime: CheckpointRuntime => runtime
  }
}

private[phoebe] object FragmentPlanner {
  private val Observing = Reason("observing", "mode is observe: nothing is decided")
}
