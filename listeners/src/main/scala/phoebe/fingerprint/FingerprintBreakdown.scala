/*
 * The parts of a fingerprint, so that two runs can be compared: settings, inputs with their versions,
 * and the operators between a shuffle and those below it. For people, never for matching: columns have
 * their plain names, and literals are hashes with their type.
 */
package phoebe.fingerprint

import scala.util.control.NonFatal

import org.apache.spark.SparkConf
import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.util.DateTimeUtils
import org.apache.spark.sql.execution.{phoebe => _, _}
import org.apache.spark.sql.execution.adaptive.AdaptiveSparkPlanExec
import org.apache.spark.sql.execution.exchange.ShuffleExchangeLike
import org.apache.spark.sql.internal.SQLConf
import org.apache.spark.sql.types._
import org.apache.spark.sql.execution.phoebe.compat.SparkInternals
import phoebe.fingerprint.ExpressionText.{literalText, typeText, Env}

/** For one plan; made when it is planned, with the settings and the time of that moment. */
final class FingerprintBreakdown private[fingerprint] (
    sql: SQLConf,
    core: SparkConf,
    settings: Seq[(String, String)]
) {
  import FingerprintBreakdown._

  private lazy val shown = SparkInternals.redacted(core, settings)
  private val now = new Clock(sql.sessionLocalTimeZone, System.currentTimeMillis())

  /**
   * The parts of a shuffle's fingerprint, ready for JSON (docs/protocol.md, "Parts"). None if that fails:
   * nothing depends on them. May be called later and on any thread.
   */
  def of(shuffle: ShuffleExchangeLike, fingerprint: Fingerprint): Option[Map[String, Any]] =
    try {
      val partitioning = shuffle.outputPartitioning
      Some(Map(
        "settings" -> shown,
        "inputs" -> fingerprint.inputs.map(input),
        "partitions" -> partitioning.numPartitions,
        "operators" -> (operator(partitioning.getClass.getSimpleName, keys(partitioning), now) +:
          operators(shuffle.child, now))
      ))
    } catch { case NonFatal(_) | _: LinkageError => None }
}

private object FingerprintBreakdown {
  private def input(listing: Listing): Map[String, Any] = Map(
    "root" -> listing.root,
    "version" -> short(listing.hash),
    "files" -> listing.files.length,
    "bytes" -> listing.bytes,
    "newest_ms" -> listing.newestMs
  )

  private def keys(partitioning: Any): Seq[Expression] = partitioning match {
    case e: Expression => e.children
    case _ => Nil
  }

  /** Down to the next shuffles, and through subqueries, without nodes that do not change the rows. */
  private def operators(plan: SparkPlan, now: Clock): Seq[Map[String, Any]] = plan match {
    case a: AdaptiveSparkPlanExec => operators(a.inputPlan, now)
    case _: ShuffleExchangeLike => Nil
    case s: FileSourceScanExec =>
      named(s, s"Scan ${s.relation.location.rootPaths.mkString(",")}", now) +: below(s, now)
    case _: SortExec | _: WholeStageCodegenExec | _: InputAdapter | _: ColumnarToRowExec =>
      below(plan, now)
    case l: LocalTableScanExec =>
      val rows = Digest.of("rows", l.rows.map(_.toString): _*)
      Seq(Map("name" -> "LocalTableScan", "shape" -> short(rows), "literals" -> Nil))
    case _ if plan.expressions.isEmpty => below(plan, now)
    case _ => named(plan, plan.nodeName, now) +: below(plan, now)
  }

  private def below(plan: SparkPlan, now: Clock): Seq[Map[String, Any]] =
    (plan.children ++ plan.subqueries).flatMap(operators(_, now))

  private def named(plan: SparkPlan, name: String, now: Clock): Map[String, Any] =
    plan match {
      case s: FileSourceScanExec => operator(name, plan.expressions, now, Sources.clock(s))
      case _ => operator(name, plan.expressions, now)
    }

  private def operator(
      name: String,
      says: Seq[Expression],
      now: Clock,
      reads: Option[String] = None
  ): Map[String, Any] = {
    // Where a time of day is read as today's, the date counts like a literal.
    val dates = (reads ++ says.flatMap(_.collect(Function.unlift(ExpressionText.clock)))).toSeq
      .distinct.map(zone => literal(now.today(zone), now))
    val literals = dates ++ says.flatMap(_.collect {
      case l: Literal if !l.dataType.isInstanceOf[ObjectType] => Seq(literal(l, now))
      case s: InSet => s.hset.toSeq.map(v => literal(Literal(v, s.child.dataType), now))
          .sortBy(_("hash").toString)
    }.flatten)
    val shapes = says.map { e =>
      val bare = e.transform {
        case l: Literal if !l.dataType.isInstanceOf[ObjectType] => Literal(null, l.dataType)
        case s: InSet => InSet(s.child, Set.empty)
      }
      val columns = Env(bare.references.map(a => a.exprId -> a.name).toMap)
      try text.text(bare, columns)
      catch { case r: Refused => r.refusal.code }
    }
    Map(
      "name" -> name,
      "shape" -> short(Digest.of("shape", shapes.sorted: _*)),
      "literals" -> literals
    )
  }

  private val text = new ExpressionText(_ => "subquery", _ => "pruning", _ => "today")

  private def literal(l: Literal, now: Clock): Map[String, Any] = Map(
    "type" -> typeText(l.dataType),
    "hash" -> short(Digest.of("literal", literalText(l.value, l.dataType))),
    // Equal in two runs at different times: then the literal follows the clock.
    "since_now" -> now.distance(l).map(d => short(Digest.of("since", d.toString)))
  )

  /** The distance of a date or a time from now, in whole days or minutes. */
  private final class Clock(zone: String, nowMs: Long) {
    private val micros = nowMs * 1000L
    private val today = DateTimeUtils.microsToDays(micros, DateTimeUtils.getZoneId(zone))

    def today(zone: String): Literal =
      Literal(DateTimeUtils.microsToDays(micros, DateTimeUtils.getZoneId(zone)), DateType)

    def distance(l: Literal): Option[Long] = (l.value, l.dataType) match {
      case (days: Int, DateType) => Some(days.toLong - today)
      case (at: Long, TimestampType | TimestampNTZType) =>
        Some(Math.round((at - micros) / 60e6))
      case _ => None
    }
  }

  private def short(hash: String): String = hash.take(12)
}
