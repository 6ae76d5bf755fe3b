package phoebe.store

import java.io.{FileNotFoundException, IOException}
import java.util.concurrent.ConcurrentHashMap

import org.apache.hadoop.fs.FileSystem

import org.apache.spark.internal.Logging
import phoebe.files.HadoopFiles

/**
 * This application among those that use a store: it says that it lives, finds out that it was away for
 * too long, and shuts out others that were ([[Fence]]).
 *
 * @param owner
 *   this application's name in the store
 * @param leaseMs
 *   how long it counts for alive after it has last said so (`renew`)
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

  /** Its lines are the store's. */
  override protected def logName: String = classOf[CheckpointStore].getName

  /** Fences that were read; they never change. */
  private val fences = new ConcurrentHashMap[String, Fence]()

  /** One at a time: two that write one file may spoil each other's. */
  private val renewing = new Object

  /** When this application last said that it lives, by `System.nanoTime`; guarded by `renewing`. */
  private var renewedNs: Option[Long] = None

  /** When it last tried to: a store that fails is not an application that was away. */
  private var triedNs = 0L

  /** Whether it says so no more; guarded by `renewing`. */
  private var left = false

  /** Why it may neither commit nor remove anything any more. */
  @volatile private var lost: Option[String] = None

  /** Whether this application was away for longer than its lease. */
  def isLost: Boolean = lost.isDefined

  /**
   * Says that this application lives.
   *
   * @return
   *   when it was said, by the store's clock
   */
  def renew(): Long = renewing.synchronized {
    if (left) throw new IOException("the application has left the store")
    directory.isStill() // or a file system would make its directories anew, without a marker
    awake()
    val began = System.nanoTime()
    triedNs = began
    unfenced()
    val file = lease(root, owner)
    overwrite(fs, file, Lease.own(leaseMs, writes()).encode)
    renewedNs = Some(began)
    fs.getFileStatus(file).getModificationTime
  }

  /** As `renew`, unless the application has left the store, or its lease has run out. */
  def stay(): Unit = unlessLost(renewing.synchronized { if (!left && !isLost) renew() })

  /** Runs what an application that was away does no more: it has been said that it was. */
  def unlessLost(body: => Any): Unit =
    try body: Unit
    catch { case _: LeaseLostException => }

  /** As `renew`, where that was not done lately: it is done three times in a lease anyway. */
  def live(): Unit = renewing.synchronized {
    if (left) throw new IOException("the application has left the store")
    awake()
    if (!renewedNs.exists(System.nanoTime() - _ < leaseMs / 2 * 1000000)) renew()
  }

  /** Renews a lease that is held and due: for work that may take longer. */
  def keepAlive(): Unit = renewing.synchronized { if (renewedNs.isDefined && !left) live() }

  /** An application that was stopped for longer than its lease finds that out here, and stays out. */
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

  /** After a commit: whoever has shut this application out meanwhile has said whether that one counts. */
  def counts(place: CheckpointPlace): Unit = renewing.synchronized {
    if (!fenceOf(owner).forall(_.kept(place.stem))) unfenced()
  }

  /**
   * Before anything is removed, and around a commit: the store is there, and the application is not
   * counted for dead.
   */
  def entitled(): Unit = {
    directory.isStill()
    live()
    renewing.synchronized(unfenced())
  }

  /** Read once: it never changes. */
  def fenceOf(who: String): Option[Fence] = Option(fences.get(who)).orElse {
    val read =
      try Some(readWhole(fs, fence(root, who)))
      catch { case _: FileNotFoundException => None }
    val found = read.map(Fence.decode(_).getOrElse(Fence(who, "somebody", Set.empty)))
    found.foreach(fences.put(who, _))
    found
  }

  /** Whether one was found, without another look. */
  def knowsFenceOf(who: String): Boolean = fences.containsKey(who)

  /** Counts an application for dead, from now on and for everybody. */
  def shutOut(who: String): Unit = if (fenceOf(who).isEmpty) {
    val kept = Catalog.read(fs, root).entries.map(_.place).filter(_.owner == who).map(_.stem).toSet
    if (createWhole(fs, fence(root, who), Fence(who, owner, kept).encode, !directory.shared)) {
      logInfo(s"phoebe: the lease of $who in $root has run out, ${kept.size} checkpoints are its")
    }
  }

  /**
   * Whose lease has run out is shut out, so that nothing here changes under its successors. Where a
   * process is known to be gone there is nobody to shut out.
   */
  def shutOutExpired(before: Catalog, alive: LiveOwners): Unit =
    before.leases.keys.foreach { who =>
      if (who != owner && !alive(who) && !alive.isGone(who) && !before.fences.contains(who)) {
        entitled()
        shutOut(who)
      }
    }

  /** As above, from a look of its own. Its last lease tells it the store's time. */
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

  /** This application needs nothing of the store any more, and its lease is not renewed again. */
  def drop(): Unit = renewing.synchronized {
    left = true
    if (renewedNs.isDefined) fs.delete(lease(root, owner), false)
  }

  /** Who is alive, as `catalog` has it, at a time by the store's clock. */
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
