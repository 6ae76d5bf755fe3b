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
 * Which boundaries of a first plan are restored.
 *
 * @param verdicts
 *   by fingerprint
 * @param refused
 *   why what the store holds cannot stand in, by fingerprint
 */
private[phoebe] final class RestorePlan(
    val verdicts: Map[String, Verdict.Restore],
    val refused: Map[String, Reason],
    vanished: IdentityHashMap[SparkPlan, java.lang.Boolean]
) {

  /** Whether a boundary lies upstream of a restored one, and will not run. */
  def isUpstream(boundary: PlannedBoundary): Boolean = vanished.containsKey(boundary.exchange)
}

private[phoebe] object RestorePlan {
  val none = new RestorePlan(Map.empty, Map.empty, new IdentityHashMap)

  private type Prints = Seq[Either[Refusal, Fingerprint]]

  /**
   * Restores what the store holds, downstream first: what lies upstream of a restored boundary needs
   * no look. A store may be far away, so all candidates that do not hide one another are looked at at
   * once, and not one after the other.
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

    /** One value that would be seen in two ways is restored for no consumer of it. */
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

    /** Those that may be restored together, if each turns out to be whole and of one run. */
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
          verdicts(hash) = Verdict.Restore(restoredReason(found), found.checkpoint)
        case (hash, Left(reason)) => refused(hash) = reason
      }
      settle()
      while (refuseContested(run)) {}
      candidates = uncontested
    }
    // Subqueries are fragments of their own: one restored boundary here may share a sum with one there.
    if (verdicts.nonEmpty) state.link(consumers.linked(run))
    // A look at the store or at the inputs had no answer.
    if (stored.nonEmpty && System.nanoTime() >= deadline) runtime.lookedInVain()
    new RestorePlan(verdicts.toMap, refused.toMap, vanished)
  }

  private def hide(
      boundary: PlannedBoundary,
      hidden: IdentityHashMap[SparkPlan, java.lang.Boolean]
  ): Unit = boundary.exchange.child.foreach(hidden.put(_, true))

  /** Side by side, and on other threads than the query's: a store may never answer. */
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

  /** What the checkpoint was made from must be what the query would read now. */
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

  /** What an earlier fragment of this execution planned to compute is computed here too. */
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
