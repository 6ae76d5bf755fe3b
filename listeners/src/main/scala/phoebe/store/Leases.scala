package phoebe.store

import java.nio.charset.StandardCharsets.UTF_8
import java.nio.file.{Files, NoSuchFileException, Paths}

import scala.jdk.CollectionConverters._
import scala.util.Try
import scala.util.control.NonFatal

import phoebe.Json

/**
 * The lease of a running application, a file in the store's catalogue that is written again and
 * again. It says which checkpoints the application has begun. Its modification time, by the store's
 * own clock, is the time of the last renewal.
 *
 * @param machine
 *   the running kernel and process namespace that `pid` belongs to; "" where it is not known
 * @param startedTicks
 *   when that process started, in the kernel's ticks since it booted: process ids are reused, and
 *   clocks may be set
 * @param leaseMs
 *   how long the lease is valid after the file was written; it is written three times in that time
 * @param writes
 *   the attempts (`<fingerprint>-<attempt>`) that it has begun and not removed
 */
private[phoebe] final case class Lease(
    machine: String,
    pid: Long,
    startedTicks: Long,
    leaseMs: Long,
    writes: Set[String]
) {
  def encode: Array[Byte] = Json.line(
    "machine" -> machine,
    "pid" -> pid,
    "started_ticks" -> startedTicks,
    "lease_ms" -> leaseMs,
    "writes" -> writes.toSeq.sorted
  ).getBytes(UTF_8)

  /** Whether its process is known to be gone. That can be known only of a process on this machine. */
  def isDead: Boolean = machine.nonEmpty && machine == Lease.machine &&
    Lease.isGone(pid, startedTicks)
}

private[phoebe] object Lease {

  def own(leaseMs: Long, writes: Set[String]): Lease = {
    // Without ticks only the lease's age says whether this process lives.
    val known = if (ownTicks.isDefined) machine else ""
    Lease(known, ownPid, ownTicks.getOrElse(0L), leaseMs, writes)
  }

  /** None if the lease is incomplete, because it was read while it was being written. */
  def decode(bytes: Array[Byte]): Option[Lease] = Try {
    val node = Json.read(new String(bytes, UTF_8))
    Lease(
      node.get("machine").asText,
      node.get("pid").asLong,
      node.get("started_ticks").asLong,
      node.get("lease_ms").asLong,
      node.get("writes").elements().asScala.map(_.asText).toSet
    )
  }.toOption

  /** Host names and process ids are the same in many containers; these two are not. */
  private lazy val machine: String = Try {
    val boot = Files.readString(Paths.get("/proc/sys/kernel/random/boot_id")).trim
    s"$boot ${Files.readSymbolicLink(Paths.get("/proc/self/ns/pid"))}"
  }.getOrElse("")

  private val ownPid = ProcessHandle.current().pid()
  private lazy val ownTicks = Try(startOf(ownPid)).toOption.flatten

  /**
   * When a process of this machine started, in ticks since it booted; None: it has ended.
   *
   * @throws java.nio.file.NoSuchFileException
   *   if there is no such process, or it is hidden
   * @throws java.io.IOException
   *   if this cannot be found out now
   */
  def startOf(pid: Long): Option[Long] = {
    val stat = Files.readString(Paths.get(s"/proc/$pid/stat"))
    // The process name before it may hold any character.
    val fields = stat.substring(stat.lastIndexOf(')') + 2).split(' ')
    if (fields(0) == "Z" || fields(0) == "X") None else Some(fields(19).toLong)
  }

  /**
   * True only if it is certain. Other users' processes may be hidden (`hidepid`); then process 1 is
   * hidden too.
   */
  private def isGone(pid: Long, ticks: Long): Boolean =
    try !startOf(pid).contains(ticks)
    catch {
      case _: NoSuchFileException => Try(startOf(1)).isSuccess
      case NonFatal(_) => false
    }
}

/**
 * The living applications, by one listing of the catalogue.
 *
 * @param leases
 *   by owner; None where a lease could not be read, so that only its age is known
 * @param renewedMs
 *   when each lease was written last, by the store's clock
 * @param fenced
 *   owners that were fenced before; that is final
 */
private[phoebe] final case class LiveOwners(
    leases: Map[String, Option[Lease]],
    renewedMs: Map[String, Long],
    fenced: Set[String],
    nowMs: Long,
    defaultLeaseMs: Long
) {

  /** An application without a lease file has ended: it wrote one before it first used the store. */
  def apply(owner: String): Boolean = !fenced(owner) && leases.get(owner).exists { lease =>
    val validMs = lease.fold(defaultLeaseMs)(_.leaseMs)
    nowMs - renewedMs(owner) <= validMs && !lease.exists(_.isDead)
  }

  /** Whether an application's process is known to be gone, so that it can never go on. */
  def isGone(owner: String): Boolean = leases.get(owner).flatten.exists(_.isDead)

  lazy val longestLeaseMs: Long =
    (leases.valuesIterator.flatten.map(_.leaseMs) ++ Iterator(defaultLeaseMs)).max

  lazy val owners: Set[String] = leases.keySet.filter(apply)

  /** Attempts that living applications have begun and not removed; None if a lease is not readable. */
  lazy val writes: Option[Set[String]] = {
    val found = owners.toSeq.map(leases)
    if (found.forall(_.isDefined)) Some(found.flatten.flatMap(_.writes).toSet) else None
  }
}
