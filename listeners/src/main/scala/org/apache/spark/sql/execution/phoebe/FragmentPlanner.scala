package org.apache.spark.sql.execution.phoebe

import java.util.IdentityHashMap

import scala.collection.mutable
import scala.util.Try

import com.fasterxml.jackson.databind.JsonNode

import org.apache.spark.SparkEnv
import org.apache.spark.internal.Logging
import org.apache.spark.internal.config.IO_ENCRYPTION_ENABLED
import org.apache.spark.shuffle.sort.SortShuffleManager
import org.apache.spark.sql.SparkSession
import org.apache.spark.sql.classic
import org.apache.spark.sql.execution.{SparkPlan, SparkPlanInfo, SQLExecution}
import org.apache.spark.sql.execution.adaptive.{AdaptiveSparkPlanExec, QueryStageExec}
import org.apache.spark.sql.execution.columnar.InMemoryTableScanExec
import org.apache.spark.sql.execution.exchange.{
  ReusedExchangeExec,
  ShuffleExchangeExec,
  ShuffleExchangeLike
}
import org.apache.spark.sql.execution.metric.SQLShuffleWriteMetricsReporter
import org.apache.spark.sql.execution.phoebe.fingerprint.{Fingerprint, Fingerprinter, Refusal}
import org.apache.spark.sql.execution.streaming.runtime.StreamExecution
import org.apache.spark.util.Utils

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
private[phoebe] final class FragmentPlanner(phoebe: PhoebeRuntime, session: SparkSession)
    extends Logging {
  import FragmentPlanner._

  private val sc = phoebe.sparkContext

  def plan(plan: SparkPlan): SparkPlan = {
    val conf = session.asInstanceOf[classic.SparkSession].sessionState.conf
    phoebe.forQuery(conf) match {
      case Some((mode, settings)) if plan.exists(_.isInstanceOf[ShuffleExchangeExec]) =>
        leftAlone() match {
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

  /** What is not ours to touch: not a query of the user's, or ground that we do not know. */
  private def leftAlone(): Option[Reason] = {
    def property(key: String) = Option(sc.getLocalProperty(key))
    if (property(PhoebeRuntime.InternalProperty).isDefined)
      Some(Reason("own_job", "a job of our own"))
    else if (property(StreamExecution.QUERY_ID_KEY).isDefined) {
      Some(Reason("streaming", "streaming queries and foreachBatch are left alone"))
    } else if (property(SQLExecution.EXECUTION_ID_KEY).isEmpty) {
      Some(Reason("no_execution", "planned outside a SQL execution"))
    } else None
  }

  /** Why this application's shuffles cannot be checkpointed at all; then it is only observed. */
  private lazy val unknownGround: Option[Reason] = {
    val env = SparkEnv.get
    if (env.shuffleManager.getClass != classOf[SortShuffleManager]) {
      val name = env.shuffleManager.getClass.getName
      Some(Reason(
        "unknown_shuffle_manager",
        s"shuffles are managed by $name",
        Map("class" -> name)
      ))
    } else if (Utils.isPushBasedShuffleEnabled(env.conf, isDriver = true)) {
      Some(Reason("push_based_shuffle", "push-based shuffle is on"))
    } else if (env.conf.get(IO_ENCRYPTION_ENABLED)) {
      Some(Reason("io_encryption", "spark.io.encryption.enabled is on, the store is not encrypted"))
    } else None
  }

  private def replan(plan: SparkPlan, id: Long, mode: Mode): SparkPlan =
    if (mode != Mode.Apply) plan
    else checkpoints.map(runtime => runtime -> runtime.execution(id)) match {
      case Some((runtime, state)) if state.replaces =>
        val fingerprinter = newFingerprinter()
        replace(plan, id, runtime) { exchange =>
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
    val boundaries = boundariesOf(plan)
    if (boundaries.isEmpty) plan
    else if (mode == Mode.Observe || unknownGround.isDefined) {
      val reason = unknownGround.getOrElse(phoebe.limitReason.getOrElse(Observing))
      boundaries.foreach(b =>
        tell(id, b, None, "skip", reason, accumulator(b.exchange), None, None)
      )
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
      if (prints.exists(_.isRight)) runtime.known() else Map.empty[String, CommittedCheckpoint]

    // Downstream first (pre-order): what lies upstream of a restored boundary needs no look.
    val restores = mutable.Map.empty[String, Verdict.Restore]
    val damaged = mutable.Map.empty[String, Reason]
    val vanished = new IdentityHashMap[SparkPlan, java.lang.Boolean]
    if (mode == Mode.Apply) {
      boundaries.zip(prints).foreach {
        case (b, Right(print))
            if known.contains(print.hash) && !vanished.containsKey(b.exchange) &&
              mayRestore(state.verdicts.get(print.hash)) =>
          val admitted =
            restores.contains(print.hash) || (runtime.restorer.admit(known(print.hash)) match {
              case Right(_) => true
              case Left(reason) =>
                damaged(print.hash) = reason
                false
            })
          if (admitted) {
            restores(print.hash) =
              Verdict.Restore(restoredReason(known(print.hash)), known(print.hash))
            b.exchange.child.foreach(vanished.put(_, true))
          }
        case _ =>
      }
    }

    val open = boundaries.zip(prints).filter { case (b, print) =>
      print.isRight && !vanished.containsKey(b.exchange) && !restores.contains(
        print.toOption.get.hash
      )
    }
    val restorable = if (mode == Mode.Apply) restores.keySet.toSet else known.keySet
    val advised = advise(plan, id, settings, boundaries, prints, restorable, open)
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
        replace(plan, id, runtime) { exchange =>
          Option(byNode.get(exchange)).map(f => f.hash -> state.verdicts.get(f.hash)).filter(
            _._2 != null
          )
        }
      } else plan
    report(id, mode, boundaries, prints, vanished, state, advised, result)
    result
  }

  /** What an earlier fragment of this execution planned to compute is computed here too. */
  private def mayRestore(earlier: Verdict): Boolean = earlier match {
    case null | _: Verdict.Restore => true
    case _ => false
  }

  private def advise(
      plan: SparkPlan,
      id: Long,
      settings: PhoebeSettings,
      boundaries: Seq[PlannedBoundary],
      prints: Seq[Either[Refusal, Fingerprint]],
      restorable: Set[String],
      open: Seq[(PlannedBoundary, Either[Refusal, Fingerprint])]
  ): Advised = {
    if (open.isEmpty) Advised(Map.empty, NothingOpen, None)
    else settings.force match {
      case Force.None =>
        val info = SparkPlanInfo.fromSparkPlan(plan)
        if (!isLong(plan, info, settings)) Advised(Map.empty, shortQuery(settings), None)
        else {
          val requests = boundaries.zip(prints).map { case (b, print) =>
            BoundaryRequest(
              b.node,
              print.toOption.map(_.hash),
              print.isRight,
              print.left.toOption.map(reasonOf),
              b.exchange.outputPartitioning.numPartitions,
              b.catalystBytes,
              b.catalystRows,
              print.toOption.exists(p => restorable(p.hash))
            )
          }
          phoebe.companion.ask(id, slots, settings.minDurationMs, info, requests) match {
            case Left(reason) => Advised(Map.empty, reason, None)
            case Right(advice) =>
              val choices =
                advice.decisions.map(d => d.node -> ((d.checkpoint, d.reason, d.predicted))).toMap
              Advised(choices, NotAdvised, advice.modelVersion)
          }
        }
      case force =>
        val choices = open.map { case (b, print) =>
          val chosen = force.names(print.toOption.map(_.hash), b.boundaryId)
          b.node -> ((chosen, if (chosen) Forced else NotForced, Option.empty[JsonNode]))
        }
        Advised(choices.toMap, NotForced, None)
    }
  }

  /** Whether waiting for advice can pay: past runs of such a plan were long, or its input is large. */
  private def isLong(plan: SparkPlan, info: SparkPlanInfo, settings: PhoebeSettings): Boolean =
    phoebe.companion.longShapes.contains(PlanShape.of(info)) || {
      val msOfInput = PlanShape.inputBytes(plan) / (ScanBytesPerSlotMs * math.max(1, slots))
      msOfInput >= settings.minDurationMs
    }

  private def slots: Int = Try(sc.defaultParallelism).getOrElse(1)

  /** Replaces exchanges by their verdicts, downstream first; below a restored one nothing is left. */
  private def replace(plan: SparkPlan, id: Long, runtime: CheckpointRuntime)(
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

  /** One `boundary` message for each exchange of the first plan, with the node that really runs. */
  private def report(
      id: Long,
      mode: Mode,
      boundaries: Seq[PlannedBoundary],
      prints: Seq[Either[Refusal, Fingerprint]],
      vanished: IdentityHashMap[SparkPlan, java.lang.Boolean],
      state: ExecutionState,
      advised: Advised,
      result: SparkPlan
  ): Unit = {
    // Replacing keeps the order of what it leaves.
    val running = exchangesOf(result).iterator
    boundaries.zip(prints).foreach { case (b, print) =>
      val gone = mode == Mode.Apply && vanished.containsKey(b.exchange)
      val node = if (gone || !running.hasNext) None else Some(running.next())
      val predicted = advised.choices.get(b.node).flatMap(_._3)
      val hash = print.toOption.map(_.hash)
      val (decision, reason) = print match {
        case Left(refusal) => "refuse" -> reasonOf(refusal)
        case Right(_) if gone => "skip" -> UpstreamOfRestored
        case Right(f) =>
          state.verdicts.get(f.hash) match {
            case Verdict.Write(reason, _) => "checkpoint" -> reason
            case Verdict.Restore(reason, _) => "restore" -> reason
            case Verdict.Skip(reason) => "skip" -> reason
            case null => "skip" -> advised.otherwise
          }
      }
      phoebe.count(s"boundaries.$decision")
      tell(
        id,
        b,
        hash,
        decision,
        reason,
        node.fold(-1L)(accumulator),
        predicted,
        advised.modelVersion
      )
    }
  }

  private def tell(
      id: Long,
      boundary: PlannedBoundary,
      fingerprint: Option[String],
      decision: String,
      reason: Reason,
      accumulator: Long,
      predicted: Option[JsonNode],
      modelVersion: Option[String]
  ): Unit =
    phoebe.companion.send(
      "type" -> "boundary",
      "execution_id" -> id,
      "acc_id" -> accumulator,
      "fingerprint" -> fingerprint,
      "partitions" -> boundary.exchange.outputPartitioning.numPartitions,
      "catalyst_bytes" -> boundary.catalystBytes.map(_.toLong),
      "catalyst_rows" -> boundary.catalystRows.map(_.toLong),
      "decision" -> decision,
      "reason" -> reason.toJson,
      "predicted" -> predicted,
      "model_version" -> modelVersion,
      "time" -> System.currentTimeMillis()
    )

  private def accumulator(exchange: ShuffleExchangeLike): Long =
    exchange.metrics.get(SQLShuffleWriteMetricsReporter.SHUFFLE_BYTES_WRITTEN).fold(-1L)(_.id)

  private def checkpoints: Option[CheckpointRuntime] = Option(phoebe.slot.get()).collect {
    case runtime: CheckpointRuntime => runtime
  }

  private def newFingerprinter(): Fingerprinter =
    new Fingerprinter(session.asInstanceOf[classic.SparkSession])
}

private[phoebe] object FragmentPlanner {

  /** What a core scans in a millisecond, at best (about 100 MB/s): a bound, not a prediction. */
  private val ScanBytesPerSlotMs = 100000L

  private val Observing = Reason("observing", "mode is observe: nothing is decided")
  private val Forced = Reason("forced", "spark.phoebe.force names it")
  private val NotForced = Reason("not_forced", "spark.phoebe.force does not name it")
  private val NothingOpen = Reason("nothing_open", "no boundary is left to decide about")
  private val NotAdvised = Reason("not_advised", "the advice does not speak of it")
  private val UpstreamOfRestored =
    Reason("upstream_of_restored", "a boundary downstream of it was restored, it does not run")

  private def shortQuery(settings: PhoebeSettings) = Reason(
    "short_query",
    s"neither history nor its input says that it runs for ${settings.minDurationMs} ms",
    Map("min_duration_ms" -> settings.minDurationMs)
  )

  private def restoredReason(checkpoint: CommittedCheckpoint) = {
    val manifest = checkpoint.manifest
    Reason(
      "restored",
      s"application ${manifest.appId} left ${manifest.bytes} bytes of it in the store",
      Map("from_app_id" -> manifest.appId, "bytes" -> manifest.bytes)
    )
  }

  private def reasonOf(refusal: Refusal): Reason =
    Reason(refusal.code, refusal.message, refusal.args)

  /**
   * What the companion (or `force`) chose, by node rank.
   *
   * @param otherwise the reason for boundaries that it does not mention
   */
  private final case class Advised(
      choices: Map[Int, (Boolean, Reason, Option[JsonNode])],
      otherwise: Reason,
      modelVersion: Option[String]
  )

  /**
   * @param node rank in the pre-order of the plan's `SparkPlanInfo`
   * @param boundaryId `e<k>`, k its rank among the fragment's exchanges
   */
  private final case class PlannedBoundary(
      node: Int,
      boundaryId: String,
      exchange: ShuffleExchangeExec
  ) {
    private lazy val stats = exchange.child.logicalLink
      .orElse(exchange.child.collectFirst {
        case p if p.logicalLink.isDefined => p.logicalLink.get
      })
      .flatMap(link => Try(link.stats).toOption)
    lazy val catalystBytes: Option[BigInt] = stats.map(_.sizeInBytes).filter(_ < Long.MaxValue)
    lazy val catalystRows: Option[BigInt] = stats.flatMap(_.rowCount)
  }

  /** The fragment's own shuffle exchanges (not those of subqueries), ranked as `SparkPlanInfo` ranks nodes. */
  private def boundariesOf(plan: SparkPlan): Seq[PlannedBoundary] = {
    val found = Seq.newBuilder[PlannedBoundary]
    var rank = -1
    var exchanges = 0
    def walk(node: SparkPlan, own: Boolean): Unit = {
      rank += 1
      node match {
        case exchange: ShuffleExchangeExec if own =>
          found += PlannedBoundary(rank, s"e$exchanges", exchange)
          exchanges += 1
        case _ =>
      }
      node match {
        case ReusedExchangeExec(_, child) => walk(child, own = false)
        case adaptive: AdaptiveSparkPlanExec => walk(adaptive.executedPlan, own = false)
        case stage: QueryStageExec => walk(stage.plan, own = false)
        case scan: InMemoryTableScanExec => walk(scan.relation.cachedPlan, own = false)
        case other =>
          other.children.foreach(walk(_, own))
          other.subqueries.foreach(walk(_, own = false))
      }
    }
    walk(plan, own = true)
    found.result()
  }

  private def exchangesOf(plan: SparkPlan): Seq[ShuffleExchangeLike] =
    plan.collect { case exchange: ShuffleExchangeLike => exchange }
}
