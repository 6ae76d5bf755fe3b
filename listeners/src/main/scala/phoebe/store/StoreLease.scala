package phoebe.store

import java.io.{FileNotFoundException, IOException}
import java.util.concurrent.ConcurrentHashMap

import org.apache.hadoop.fs.FileSystem

import org.apache.spark.internal.Logging
import phoebe.files.HadoopFiles

/**
 * This application's lease on a store: renews it, notices when it has expired, and fences other
 * applications whose leases have expired ([[Fence]]).
 *
 * @param owner
 *   this application's name in the store
 * @param leaseMs
 *   how long this application counts as alive after its last `renew`
 * @param writes
 *   the attempts that it has begun and not removed
 */
private[phoebe] final class StoreLease(
    directory: StoreDirectory,
    owner: String,
    leaseMs: Long,
    writes: () => Set[String]
) extends Logging {
  import CheckpointPlace._
  import HadoopFiles._

  private val root = directory.root
  private def fs: FileSystem = directory.fs

  /** Its log lines appear under the store's name. */
  override protected def logName: String = classOf[CheckpointStore].getName

  /** Fences that were read; they never change. */
  private val fences = new ConcurrentHashMap[String, Fence]()

  /** One renewal at a time: two writers of one file may corrupt it. */
  private val renewing = new Object

  /** When this application last renewed its lease, by `System.nanoTime`; guarded by `renewing`. */
  private var renewedNs: Option[Long] = None

  /** When it last tried to renew: a failing store does not mean that the application was suspended. */
  private var triedNs = 0L

  /** Whether the lease was dropped; guarded by `renewing`. */
  private var left = false

  /** Why this application may no longer commit or remove anything. */
  @volatile private var lost: Option[String] = None

  /** Whether this application's lease has expired. */
  def isLost: Boolean = lost.isDefined

  /**
   * Renews this application's lease.
   *
   * @return
   *   the time of the renewal, by the store's clock
   */
  def renew(): Long = renewing.synchronized {
    if (left) throw new IOException("the application has left the store")
    directory.isStill() // else a file system would create its directories again, without a marker
    awake()
    val began = System.nanoTime()
    triedNs = began
    unfenced()
    val file = lease(root, owner)
    overwrite(fs, file, Lease.own(leaseMs, writes()).encode)
    renewedNs = Some(began)
    fs.getFileStatus(file).getModificationTime
  }

  /** As `renew`, unless the lease was dropped or has expired. */
  def stay(): Unit = unlessLost(renewing.synchronized { if (!left && !isLost) renew() })

  /** Runs `body`, which ends silently where the lease has expired (that was logged already). */
  def unlessLost(body: => Any): Unit =
    try body: Unit
    catch { case _: LeaseLostException => }

  /** As `renew`, unless the last renewal is recent. (The lease is renewed three times in its time.) */
  def live(): Unit = renewing.synchronized {
    if (left) throw new IOException("the application has left the store")
    awake()
    if (!renewedNs.exists(System.nanoTime() - _ < leaseMs / 2 * 1000000)) renew()
  }

  /** Renews a held lease if it is due, during long work. */
  def keepAlive(): Unit = renewing.synchronized { if (renewedNs.isDefined && !left) live() }

  /** Notices that the application was suspended for longer than its lease; that is final. */
  private def awake(): Unit = {
    val awayMs = renewedNs.fold(0L)(at => (System.nanoTime() - math.max(at, triedNs)) / 1000000)
    if (awayMs > leaseMs) lose(s"it was away for $awayMs ms")
    lost.foreach(why => throw new LeaseLostException(why))
  }

  private def unfenced(): Unit =
    fenceOf(owner).foreach(fence => lose(s"${fence.by} has counted it for dead"))

  private def lose(why: String): Unit = {
    val message = s"this application's lease in $root has run out ($why)"
    if (lost.isEmpty) {
      lost = Some(message)
      logWarning(s"phoebe: $message: its queries go on, it commits and removes nothing more there")
    }
    throw new LeaseLostException(message)
  }

  /** After a commit: if the application was fenced meanwhile, the fence decides whether it is valid. */
  def counts(place: CheckpointPlace): Unit = renewing.synchronized {
    if (!fenceOf(owner).forall(_.kept(place.stem))) unfenced()
  }

  /**
   * Called before a removal and before a commit: checks that the store is there and that the
   * application is not fenced.
   */
  def entitled(): Unit = {
    directory.isStill()
    live()
    renewing.synchronized(unfenced())
  }

  /** An owner's fence. A fence is read once, because it never changes. */
  def fenceOf(who: String): Option[Fence] = Option(fences.get(who)).orElse {
    val read =
      try Some(readWhole(fs, fence(root, who)))
      catch { case _: FileNotFoundException => None }
    val found = read.map(Fence.decode(_).getOrElse(Fence(who, "somebody", Set.empty)))
    found.foreach(fences.put(who, _))
    found
  }

  /** Whether an owner's fence was read before; does not ask the store. */
  def knowsFenceOf(who: String): Boolean = fences.containsKey(who)

  /** Fences an application, for all applications and for good. */
  def shutOut(who: String): Unit = if (fenceOf(who).isEmpty) {
    val kept = Catalog.read(fs, root).entries.map(_.place).filter(_.owner == who).map(_.stem).toSet
    if (createWhole(fs, fence(root, who), Fence(who, owner, kept).encode, !directory.shared)) {
      logInfo(s"phoebe: the lease of $who in $root has run out, ${kept.size} checkpoints are its")
    }
  }

  /**
   * Fences the owners of expired leases, so that they change nothing that others rely on. An owner whose
   * process is known to be gone needs no fence.
   */
  def shutOutExpired(before: Catalog, alive: LiveOwners): Unit =
    before.leases.keys.foreach { who =>
      if (who != owner && !alive(who) && !alive.isGone(who) && !before.fences.contains(who)) {
        entitled()
        shutOut(who)
      }
    }

  /** As above, by a new listing. The time of its own last renewal gives the store's time. */
  def watch(): Unit = {
    val found = Catalog.read(fs, root)
    found.leases.get(owner).map(_.getModificationTime).foreach { nowMs =>
      val late = found.leases.filter { case (who, status) =>
        !found.fences.contains(who) && nowMs - status.getModificationTime > leaseMs / 2
      }
      if (late.nonEmpty) {
        val some = found.copy(leases = late)
        unlessLost(shutOutExpired(some, living(some, nowMs)))
      }
    }
  }

  /** Ends the lease: this application needs the store no more. */
  def drop(): Unit = renewing.synchronized {
    left = true
    if (renewedNs.isDefined) fs.delete(lease(root, owner), false)
  }

  /** The living owners of `catalog`, at a time by the store's clock. */
  def living(catalog: Catalog, nowMs: Long): LiveOwners = {
    val leases = catalog.leases.map { case (who, status) =>
      val read =
        try Lease.decode(readWhole(fs, status.getPath))
        catch { case _: IOException => None }
      who -> read
    }
    val renewedMs = catalog.leases.map(l => l._1 -> l._2.getModificationTime)
    LiveOwners(leases, renewedMs, catalog.fences.keySet, nowMs, leaseMs)
  }
}
