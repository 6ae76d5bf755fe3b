/*
 * The semantic fingerprint of a shuffle: equal on a query's first plan, on each re-plan and in the
 * next application; different whenever the rows or the stored bytes could differ. See
 * docs/fingerprint.md for what it covers, and why.
 */
package phoebe.fingerprint

import scala.collection.mutable
import scala.util.control.NonFatal

import org.apache.spark.sql.catalyst.expressions.Expression
import org.apache.spark.sql.catalyst.plans.physical._
import org.apache.spark.sql.classic.SparkSession
import org.apache.spark.sql.execution.SparkPlan
import org.apache.spark.sql.execution.exchange.ShuffleExchangeLike
import org.apache.spark.sql.execution.phoebe.compat.SparkInternals
import phoebe.fingerprint.ExpressionText.{typeText, Env}

/**
 * @param hash
 *   64 hex digits of SHA-256
 * @param inputs
 *   the files that were listed for the plan, see [[Inputs]]
 */
final case class Fingerprint(hash: String, inputs: Seq[Listing])

/**
 * Computes the fingerprints of one SQL execution's exchanges, on its first plan and on each re-plan.
 * Make one per execution: nodes that did not change from plan to plan are not computed again.
 *
 * @param plannedMs
 *   a time before the execution read anything, in ms since the epoch
 */
final class Fingerprinter(
    session: SparkSession,
    plannedMs: Long = System.currentTimeMillis()
) {
  private val lineage = new ReplanMatcher(session)
  private val relations = new Relations(lineage, settingsOf)
  private var settings: Either[Refusal, Settings] = Right(Settings("", Nil))
  private lazy val readers = Settings.ofReaders(session.sparkContext.hadoopConfiguration)
  private val known = mutable.HashMap.empty[NodeKey, Fingerprint]

  /**
   * The fingerprints of shuffles (Spark's or ours) in one fragment's plan, on the first plan or a re-plan;
   * or why they have none. Settings are read once for all of them. Never throws (NonFatal).
   */
  def apply(
      plan: SparkPlan,
      exchanges: Seq[SparkPlan]
  ): Seq[Either[Refusal, Fingerprint]] = synchronized {
    val now =
      try Right(Settings.of(
          session.sessionState.conf,
          SparkInternals.conf(session.sparkContext),
          readers
        ))
      catch { case r: Refused => Left(r.refusal) }
    if (now != settings) known.clear()
    settings = now
    try {
      // If this fails, nodes above a dropped branch have other names, which is harmless.
      try lineage.begin(plan)
      catch { case NonFatal(_) | _: LinkageError => () }
      exchanges.map(one)
    } finally relations.endPass()
  }

  /** The parts of the last plan's fingerprints. */
  def parts: FingerprintBreakdown = synchronized {
    new FingerprintBreakdown(
      session.sessionState.conf,
      SparkInternals.conf(session.sparkContext),
      settings.fold(_ => Nil, _.parts)
    )
  }

  /** The settings of another session that made a relation: its readers use them. None if the same. */
  private def settingsOf(other: org.apache.spark.sql.SparkSession): Option[String] =
    if (other eq session) None
    else {
      val hash = Settings.of(
        other.sessionState.conf,
        SparkInternals.conf(session.sparkContext),
        readers
      ).hash
      if (settings.exists(_.hash == hash)) None else Some(hash)
    }

  /** The inputs of one of these fingerprints, to be checked now and later. */
  def inputs(fingerprint: Fingerprint): Inputs =
    new Inputs(session, fingerprint.inputs, plannedMs)

  private def one(exchange: SparkPlan): Either[Refusal, Fingerprint] =
    try {
      exchange match {
        case shuffle: ShuffleExchangeLike => settings.map(s => of(shuffle, s.hash))
        case other => Refused.operator(other.getClass.getName)
      }
    } catch {
      case r: Refused => Left(r.refusal)
      case e @ (NonFatal(_) | _: LinkageError) => Left(Refusal(
          "fingerprint_failed",
          Map("error" -> e.toString),
          s"The fingerprint failed: $e"
        ))
    }

  private def of(shuffle: ShuffleExchangeLike, settings: String): Fingerprint = {
    val relation = relations(shuffle)
    known.getOrElseUpdate(
      new NodeKey(shuffle, Seq(relation)), {
        val columns = shuffle.output.map(a => relation.env(a) + typeText(a.dataType))
        val hash = new Digest("shuffle")
          .add(settings)
          .add(relation.hash)
          .addAll(columns)
          .addAll(partitioning(shuffle.outputPartitioning, relation.env))
          .hex()
        Fingerprint(hash, relation.inputs.toSeq.sortBy(_.root))
      }
    )
  }

  private def partitioning(p: Partitioning, env: Env): Seq[String] = {
    def texts(expressions: Seq[Expression]) = expressions.map(relations.text.text(_, env))
    p match {
      // Exact classes: a subclass may distribute its rows in another way.
      case HashPartitioning(keys, n) if p.getClass == classOf[HashPartitioning] =>
        "hash" +: n.toString +: texts(keys)
      case RangePartitioning(order, n) if p.getClass == classOf[RangePartitioning] =>
        "range" +: n.toString +: texts(order)
      case RoundRobinPartitioning(n) if p.getClass == classOf[RoundRobinPartitioning] =>
        Seq("round-robin", n.toString)
      case SinglePartition => Seq("single")
      case other => Refused.refuse(
          "unknown_partitioning",
          Map("partitioning" -> other.getClass.getName),
          s"Partitioning ${other.getClass.getSimpleName} is not known."
        )
    }
  }
}
