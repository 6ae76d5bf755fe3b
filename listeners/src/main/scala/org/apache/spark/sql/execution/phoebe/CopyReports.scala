package org.apache.spark.sql.execution.phoebe

import java.util.concurrent.ConcurrentHashMap

import org.apache.spark.util.AccumulatorV2

/**
 * What one map task attempt says of its copy.
 *
 * @param sizes as in the manifest: Spark's compressed block sizes, base64
 * @param error why the copy failed, or null; a failed copy never fails its task
 */
private[phoebe] final case class CopyReport(
    mapIndex: Int,
    mapId: Long,
    dataBytes: Long,
    indexCrc: Int,
    rows: Long,
    dataSizeBytes: Long,
    copyNs: Long,
    sizes: String,
    error: String
)

/**
 * Copy reports on their way to the driver, by map id.
 *
 * An accumulator, because its updates come with the task's own result: when the driver knows that
 * a map stage is done, it has the report of every attempt that counted. Kept nameless so that it
 * shows in no event and no user interface. Attempts that lost (speculation, stage retries) report
 * too; the driver looks up the winners by the map ids that the map output tracker names.
 */
private[phoebe] final class CopyReports
    extends AccumulatorV2[CopyReport, ConcurrentHashMap[Long, CopyReport]] {
  private val reports = new ConcurrentHashMap[Long, CopyReport]()

  override def isZero: Boolean = reports.isEmpty
  override def copy(): CopyReports = {
    val other = new CopyReports
    other.reports.putAll(reports)
    other
  }
  override def reset(): Unit = reports.clear()
  override def add(report: CopyReport): Unit = reports.put(report.mapId, report)
  override def merge(other: AccumulatorV2[CopyReport, ConcurrentHashMap[Long, CopyReport]]): Unit =
    reports.putAll(other.value)
  override def value: ConcurrentHashMap[Long, CopyReport] = reports
}
