package phoebe.planner

import java.util.IdentityHashMap
import java.util.concurrent.{CompletableFuture, TimeoutException, TimeUnit}

import scala.collection.mutable

import org.apache.spark.sql.classic.SparkSession
import org.apache.spark.sql.execution.SparkPlan
import phoebe.{FailSafe, Reason}
import phoebe.driver.{CheckpointRuntime, CheckpointVerifier, ExecutionState, Verdict}
import phoebe.exchange.Reproducible
import phoebe.fingerprint.{Fingerprint, Inputs, Refusal}
import phoebe.store.CatalogEntry

/**
 * The boundaries of a first plan that are restored.
 *
 * @param verdicts
 *   by fingerprint
 * @param refused
 *   why a checkpoint in the store cannot be restored, by fingerprint
 */
private[phoebe] final class RestorePlan(
    val verdicts: Map[String, Verdict.Restore],
    val refused: Map[String, Reason],
    vanished: IdentityHashMap[SparkPlan, java.lang.Boolean]
) {

  /** Whether a boundary is upstream of a restored one, so that it will not run. */
  def isUpstream(boundary: PlannedBoundary): Boolean = vanished.containsKey(boundary.exchange)
}

private[phoebe] object RestorePlan {
  val none = new RestorePlan(Map.empty, Map.empty, new IdentityHashMap)

  private type Prints = Seq[Either[Refusal, Fingerprint]]

  /**
   * Restores boundaries from the store, downstream first: boundaries upstream of a restored one need no
   * check. Since a store may be far away, all candidates that are not upstream of each other are checked
   * at once.
   */
  def of(
      runtime: CheckpointRuntime,
      session: SparkSession,
      state: ExecutionState,
      plan: SparkPlan,
      id: Long,
      known: Map[String, Seq[CatalogEntry]],
      boundaries: Seq[PlannedBoundary],
      prints: Prints
  ): RestorePlan = {
    val verdicts = mutable.Map.empty[String, Verdict.Restore]
    val refused = mutable.Map.empty[String, Reason]
    val vanished = new IdentityHashMap[SparkPlan, java.lang.Boolean]
    val stored = boundaries.zip(prints).collect {
      case (b, Right(f)) if known.contains(f.hash) && mayRestore(state, f.hash) => b -> f.hash
    }
    val inputs = prints.collect {
      case Right(f) if known.contains(f.hash) => f.hash -> state.inputs(f)
    }.toMap
    lazy val consumers = new Consumers(plan, id, boundaries, prints)

    val delicate = stored.collect {
      case (b, hash) if !FailSafe("look at a boundary's rows", false)(Reproducible(b.exchange)) =>
        hash
    }.toSet

    def outermost: Seq[String] = {
      val hidden = new IdentityHashMap[SparkPlan, java.lang.Boolean](vanished)
      stored.collect {
        case (b, hash)
            if !hidden.containsKey(b.exchange) && !refused.contains(hash) &&
              !verdicts.contains(hash) =>
          hide(b, hidden)
          hash
      }.distinct
    }

    def settle(): Unit = {
      vanished.clear()
      stored.foreach { case (b, hash) =>
        if (verdicts.contains(hash) && !vanished.containsKey(b.exchange)) hide(b, vanished)
      }
    }

    /** Refuses a value for all its consumers if they would see it in two ways. */
    def refuseContested(run: String => Option[String]): Boolean = {
      val contested = consumers.contested(run).filterNot { case (hash, _) =>
        refused.contains(hash)
      }
      contested.foreach { case (hash, reason) =>
        verdicts -= hash
        refused(hash) = reason
      }
      if (contested.nonEmpty) settle()
      contested.nonEmpty
    }

    /** Those that may be restored together, if all are undamaged and of one run. */
    def uncontested: Seq[String] = {
      var found = outermost
      def assumed(hash: String) =
        if (verdicts.contains(hash) || found.contains(hash)) Some("one") else None
      while (found.nonEmpty && refuseContested(assumed)) found = outermost
      found
    }

    def run(hash: String) = verdicts.get(hash).map(v => Consumers.run(v.checkpoint))

    val timeoutMs = runtime.lookTimeoutMs
    val deadline = System.nanoTime() + TimeUnit.MILLISECONDS.toNanos(timeoutMs)
    val sights = Inputs.looksBeforeRestores(session, timeoutMs)
    var candidates = uncontested
    while (candidates.nonEmpty) {
      val read = candidates.map { hash =>
        CompletableFuture.supplyAsync(() => inputs(hash).beforeRestore(sights), runtime.looks)
      }
      val stores = looks(runtime, candidates, delicate, timeoutMs, deadline)(known)
      val found = stores.zip(read).map { case (look, now) =>
        look.flatMap(sameInputs(_, now, deadline))
      }
      candidates.zip(found).foreach {
        case (hash, Right(found)) =>
          verdicts(hash) = Verdict.Restore(restoredReason(found), found.checkpoint, inputs(hash))
        case (hash, Left(reason)) => refused(hash) = reason
      }
      settle()
      while (refuseContested(run)) {}
      candidates = uncontested
    }
    // A subquery is another fragment, and a boundary restored there may share a sum with one here.
    if (verdicts.nonEmpty) state.link(consumers.linked(run))
    // A check of the store or of the inputs has timed out.
    if (stored.nonEmpty && System.nanoTime() >= deadline) runtime.lookedInVain()
    new RestorePlan(verdicts.toMap, refused.toMap, vanished)
  }

  private def hide(
      boundary: PlannedBoundary,
      hidden: IdentityHashMap[SparkPlan, java.lang.Boolean]
  ): Unit = boundary.exchange.child.foreach(hidden.put(_, true))

  /** Checks candidates in parallel, on other threads than the query's: a store may never answer. */
  private def looks(
      runtime: CheckpointRuntime,
      hashes: Seq[String],
      delicate: Set[String],
      timeoutMs: Long,
      deadline: Long
  )(known: String => Seq[CatalogEntry]): Seq[Either[Reason, CheckpointVerifier.Admitted]] = {
    val begun = hashes.map { hash =>
      CompletableFuture.supplyAsync(
        () => runtime.restorer.admit(known(hash), delicate(hash)),
        runtime.looks
      )
    }
    begun.zip(hashes).map { case (look, hash) =>
      try look.get(deadline - System.nanoTime(), TimeUnit.NANOSECONDS)
      catch {
        case _: TimeoutException =>
          val reason = Reason(
            StoreSlow,
            s"the checkpoint could not be checked in $timeoutMs ms",
            Map("timeout_ms" -> timeoutMs)
          )
          runtime.restorer.giveUp(known(hash), reason)
          Left(reason)
      }
    }
  }

  /** Checks that the checkpoint's inputs are those that the query would read now. */
  private def sameInputs(
      found: CheckpointVerifier.Admitted,
      now: CompletableFuture[Either[Reason, String]],
      deadline: Long
  ): Either[Reason, CheckpointVerifier.Admitted] = {
    val seen =
      try now.get(deadline - System.nanoTime(), TimeUnit.NANOSECONDS)
      catch { case _: TimeoutException => Left(Inputs.unseen("no answer in time")) }
    seen.flatMap { identity =>
      if (identity == found.checkpoint.manifest.inputs) Right(found)
      else Left(Inputs.replaced)
    }
  }

  /** False if an earlier fragment of this execution has decided to compute it. */
  private def mayRestore(state: ExecutionState, hash: String): Boolean =
    state.verdicts.get(hash) match {
      case null | _: Verdict.Restore => true
      case _ => false
    }

  private val StoreSlow = "store_slow"

  private def restoredReason(found: CheckpointVerifier.Admitted) = {
    val manifest = found.checkpoint.manifest
    Reason(
      "restored",
      s"application ${manifest.appId} left ${manifest.bytes} bytes of it in the store, " +
        s"looked at in ${found.lookMs} ms",
      Map("from_app_id" -> manifest.appId, "bytes" -> manifest.bytes, "look_ms" -> found.lookMs)
    )
  }
}
