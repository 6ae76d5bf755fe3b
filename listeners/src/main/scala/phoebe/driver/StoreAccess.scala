package phoebe.driver

import java.util.concurrent.{CompletableFuture, ScheduledExecutorService, TimeUnit}
import java.util.concurrent.atomic.AtomicBoolean

import scala.concurrent.ExecutionContextExecutorService

import org.apache.spark.internal.Logging
import org.apache.spark.sql.execution.phoebe.compat.SparkInternals
import phoebe.{FailSafe, Reason}
import phoebe.settings.{Mode, PhoebeSettings}
import phoebe.store.{CatalogEntry, CheckpointStore, GarbageCollection, StoreRefusedException}

/**
 * An application's access to its store: opens and lists it at the start, renews the lease from the
 * first use on, and collects garbage now and then. Only the first query waits, and only for the listing.
 *
 * @param clock
 *   runs short tasks after a delay
 */
private[phoebe] final class StoreAccess(
    store: CheckpointStore,
    settings: PhoebeSettings,
    pool: ExecutionContextExecutorService,
    clock: ScheduledExecutorService
) extends Logging {
  import StoreAccess._

  /** Its log lines appear under the application's name. */
  override protected def logName: String = classOf[CheckpointRuntime].getName

  /** A separate thread: a commit or removal that hangs must not let the lease expire. */
  private val lease = SparkInternals.scheduledThread("phoebe-lease")
  private val mayWait = new AtomicBoolean(true)

  /** Whether to check others' leases: not at the first renewal, as the index has just shown them. */
  @volatile private var watches = false

  /** Why the store's directory is refused, if it is. */
  @volatile private var notAStore: Option[Reason] = None

  /** What the store held when the application started, read once in the background. */
  private val index = CompletableFuture.supplyAsync[Map[String, Seq[CatalogEntry]]](
    () =>
      FailSafe("read the store's index", Map.empty[String, Seq[CatalogEntry]]) {
        if (opens()) readIndex() else Map.empty
      },
    pool
  )

  private def opens(): Boolean =
    try {
      settings.misplacedStore.foreach(why => throw new StoreRefusedException(why))
      store.prepare()
      true
    } catch {
      case e: StoreRefusedException =>
        logWarning(s"phoebe: no checkpoints, the job goes on without: ${e.getMessage}")
        notAStore = Some(Reason("store_refused", e.getMessage))
        false
    }

  private def readIndex(): Map[String, Seq[CatalogEntry]] = {
    val catalog = store.catalogue()
    val nowMs = System.currentTimeMillis()
    // An owner may be suspended. Its checkpoints can be restored, so it must be fenced.
    if (catalog.leases.values.exists(nowMs - _.getModificationTime > settings.leaseMs / 2)) {
      watches = true
      needsStore()
    }
    if (nowMs - catalog.collectedAtMs > CollectionPauseMs) {
      FailSafe.later(clock, CollectionDelayMs, "begin to collect garbage")(collect())
    }
    catalog.index
  }

  /** Why nothing is written to the store and nothing restored from it. */
  def noStore: Option[Reason] = notAStore.orElse(if (store.isLost) Some(LeaseLost) else None)

  /** Collects garbage in the background, at most once per interval over all applications. */
  private def collect(): Unit =
    if (settings.mode == Mode.Apply) FailSafe.on(pool, "collect garbage in the store") {
      needsStore()
      store.unlessLost {
        val found = GarbageCollection.run(store, settings.limits, dryRun = false)
        found.filter(_.remove).foreach { gone =>
          logInfo(s"phoebe: removed ${gone.stocked.place}: ${gone.reason}")
        }
      }
    }

  /** Renews the lease, from the first use of the store until the application's end. */
  private lazy val renewals = lease.scheduleAtFixedRate(
    (() => FailSafe.run("renew the lease")(renew())): Runnable,
    0,
    math.max(1, settings.leaseMs / 3),
    TimeUnit.MILLISECONDS
  )

  /** Renews the lease, and checks others' leases on another thread, because that may take long. */
  private def renew(): Unit = {
    store.stay()
    if (watches && !store.isLost) {
      FailSafe.on(pool, "look for applications that are away")(store.watch())
    }
    watches = true
  }

  def needsStore(): Unit = FailSafe.run("begin to renew the lease")(renewals)

  /**
   * The committed checkpoints. Only the application's first caller waits for the index, for at most
   * the advice timeout: the first query of a resumed job has most to restore. Later callers never wait.
   */
  def known(): Map[String, Seq[CatalogEntry]] =
    if (noStore.isDefined) Map.empty
    else if (index.isDone || mayWait.compareAndSet(true, false)) {
      FailSafe("wait for the store's index", Map.empty[String, Seq[CatalogEntry]]) {
        index.get(settings.adviceTimeoutMs, TimeUnit.MILLISECONDS)
      }
    } else Map.empty

  /** Stops renewing the lease. */
  def shutdown(): Unit = lease.shutdown()
}

private[phoebe] object StoreAccess {

  /** Garbage is collected soon after the application's start, and not again for an hour. */
  private val CollectionDelayMs = 5000L
  private val CollectionPauseMs = 3600000L
  private val LeaseLost = Reason(
    "lease_lost",
    "the application was away for longer than its lease in the store"
  )
}
