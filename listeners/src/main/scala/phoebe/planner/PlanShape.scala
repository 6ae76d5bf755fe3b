package phoebe.planner

import java.nio.charset.StandardCharsets.UTF_8
import java.security.MessageDigest

import org.apache.spark.sql.catalyst.plans.QueryPlan
import org.apache.spark.sql.execution.SparkPlan

/** A cheap key of a plan, to recognise queries whose past runs were long (docs/protocol.md). */
private[phoebe] object PlanShape {
  private val HexDigits = 16

  def of(plan: SparkPlan): String = {
    val digest = MessageDigest.getInstance("SHA-256")
    def walk(node: QueryPlan[_]): Unit = {
      val children = PlanView.children(node)
      val name = shortName(node.nodeName)
      if (name != "AdaptiveSparkPlan") digest.update(s"$name/${children.size};".getBytes(UTF_8))
      children.foreach(walk)
    }
    walk(plan)
    digest.digest().map(b => f"$b%02x").mkString.take(HexDigits)
  }

  private def shortName(nodeName: String): String = {
    val trimmed = nodeName.trim
    if (trimmed.startsWith("Scan ")) trimmed.split("\\s+").take(2).mkString(" ") else trimmed
  }

  /**
   * Spark's own estimate of the bytes that a plan's scans read; a scan without an estimate counts
   * as nothing rather than as Spark's default of eight exabytes.
   */
  def inputBytes(plan: SparkPlan): BigInt =
    plan.collectLeaves().flatMap(_.logicalLink).map(_.stats.sizeInBytes).filter(
      _ < Long.MaxValue
    ).sum
}
