package org.apache.spark.sql.execution.phoebe

import java.nio.charset.StandardCharsets.UTF_8
import java.security.MessageDigest

import org.apache.spark.sql.execution.{SparkPlan, SparkPlanInfo}

/** The cheap key by which the plugin knows that a query's past runs were long (docs/protocol.md). */
private[phoebe] object PlanShape {
  private val HexDigits = 16

  def of(plan: SparkPlanInfo): String = {
    val digest = MessageDigest.getInstance("SHA-256")
    def walk(node: SparkPlanInfo): Unit =
      if (node.nodeName == "AdaptiveSparkPlan") node.children.foreach(walk)
      else {
        digest.update(s"${name(node)}/${node.children.size};".getBytes(UTF_8))
        node.children.foreach(walk)
      }
    walk(plan)
    digest.digest().map(b => f"$b%02x").mkString.take(HexDigits)
  }

  private def name(node: SparkPlanInfo): String = {
    val trimmed = node.nodeName.trim
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
