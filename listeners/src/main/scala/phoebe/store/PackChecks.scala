package phoebe.store

import java.io.FileNotFoundException

import org.apache.hadoop.conf.Configuration

import org.apache.spark.sql.execution.phoebe.compat.SparkInternals
import phoebe.files.DamagedFileException

/** Checks a checkpoint's packs: only their footers, or every byte. Rows are not decoded. */
private[phoebe] object PackChecks {

  /** More packs than this are checked in parallel. */
  private val FewPacks = 8
  val Threads = 16

  /** Checks the footers of all packs, as `all`. */
  def footers(
      place: CheckpointPlace,
      conf: Configuration,
      packs: Seq[Pack],
      timeoutMs: Long = RangeFetcher.DefaultTimeoutMs
  ): Option[String] = all(place, conf, packs, timeoutMs)(_.checkFooter(_))

  /** Checks all packs. @return what is damaged, if anything; throws as `verify` */
  def all(
      place: CheckpointPlace,
      conf: Configuration,
      packs: Seq[Pack],
      timeoutMs: Long = RangeFetcher.DefaultTimeoutMs
  )(look: (PackReader, Pack) => Unit): Option[String] = {
    def one(pack: Pack): Option[String] = checked(place, conf, timeoutMs)(look(_, pack))
    val found =
      if (packs.size <= FewPacks) packs.flatMap(one(_))
      else SparkInternals.inParallel(packs, "phoebe-packs", Threads)(one).flatten
    found.headOption
  }

  /**
   * Reads every byte of a pack.
   *
   * @return
   *   what is damaged, if anything
   * @throws java.io.IOException
   *   if the store cannot be read; the checkpoint may still be good
   */
  def verify(place: CheckpointPlace, conf: Configuration, pack: Pack): Option[String] =
    checked(place, conf, RangeFetcher.DefaultTimeoutMs)(_.verify(pack))

  private def checked(place: CheckpointPlace, conf: Configuration, timeoutMs: Long)(
      check: PackReader => Unit
  ): Option[String] = {
    val reader = new PackReader(place.directory, conf, timeoutMs = timeoutMs)
    try {
      check(reader)
      None
    } catch {
      case e: DamagedFileException => Some(e.getMessage)
      case e: FileNotFoundException => Some(s"a file is missing: ${e.getMessage}")
    } finally reader.close()
  }
}
