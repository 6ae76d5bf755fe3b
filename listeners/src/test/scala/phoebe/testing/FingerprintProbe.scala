/*
 * For tests and benchmarks: a session extension that fingerprints every exchange on every planning
 * pass, exactly where the planner hook stands, and keeps what it saw. Changes no plan.
 *
 *   spark.sql.extensions=phoebe.testing.FingerprintProbe
 */
package phoebe.testing

import java.lang.management.ManagementFactory
import java.util.concurrent.{ConcurrentHashMap, ConcurrentLinkedQueue}

import com.fasterxml.jackson.databind.ObjectMapper
import com.fasterxml.jackson.module.scala.DefaultScalaModule

import org.apache.spark.sql.SparkSessionExtensions
import org.apache.spark.sql.catalyst.expressions.{UnsafeProjection, XXH64}
import org.apache.spark.sql.catalyst.rules.Rule
import org.apache.spark.sql.classic.{Dataset, SparkSession}
import org.apache.spark.sql.execution.{QueryExecution, SparkPlan, SQLExecution}
import org.apache.spark.sql.execution.adaptive.{AdaptiveSparkPlanExec, QueryStageExec}
import org.apache.spark.sql.execution.exchange.{ReusedExchangeExec, ShuffleExchangeLike}
import phoebe.fingerprint.{
  CarriesOriginal,
  Digest,
  Fingerprint,
  Fingerprinter,
  Inputs,
  Listings,
  Refusal,
  ReplanMatcher
}

class FingerprintProbe extends (SparkSessionExtensions => Unit) {
  override def apply(extensions: SparkSessionExtensions): Unit =
    extensions.injectQueryStagePrepRule(session =>
      FingerprintProbe.Recorder(session.asInstanceOf[SparkSession])
    )
}

object FingerprintProbe {
  private val threads = ManagementFactory.getThreadMXBean
  private val seen = new ConcurrentLinkedQueue[Map[String, Any]]
  private val json = new ObjectMapper().registerModule(DefaultScalaModule)

  private final case class Recorder(session: SparkSession) extends Rule[SparkPlan] {
    override def apply(plan: SparkPlan): SparkPlan = {
      val execution = session.sparkContext.getLocalProperty(SQLExecution.EXECUTION_ID_KEY)
      val start = threads.getCurrentThreadCpuTime
      val all = exchanges(plan)
      val found = all.zip(ofExecution(session, execution)(plan, all))
      val elapsed = threads.getCurrentThreadCpuTime - start
      val afresh = new Fingerprinter(session)(plan, all).map(_.map(_.hash))
      seen.add(Map(
        "execution" -> execution,
        "cpu_ns" -> elapsed,
        "whole" -> !ReplanMatcher.isReplan(plan),
        "agrees" -> (found.map(_._2.map(_.hash)) == afresh),
        "exchanges" -> found.map { case (e, f) => describe(e, f) }
      ))
      plan
    }
  }

  // As the planner hook does it: one for all passes of an execution.
  private val ofExecutions = new ConcurrentHashMap[(SparkSession, String), Fingerprinter]
  private def ofExecution(session: SparkSession, execution: String): Fingerprinter =
    ofExecutions.computeIfAbsent(
      (session, execution),
      _ => new Fingerprinter(session)
    )

  /**
   * What was seen since the last call: a JSON list, one object for each planning pass; `agrees` when
   * a fingerprinter that has seen nothing before says the same.
   */
  def drain(): String =
    json.writeValueAsString(Iterator.continually(seen.poll()).takeWhile(_ != null).toList)

  /** The exchanges of a Dataset's executed plan as it stands, as JSON. */
  def of(dataset: Dataset[_]): String = exchangesOf(dataset.queryExecution)

  /**
   * What a commit and a restore would find of the inputs of a Dataset's exchanges, if another one's scans
   * had run: what identifies them, or a reason's code.
   */
  def inputs(dataset: Dataset[_], ran: Dataset[_]): String = {
    val session = dataset.sparkSession
    val fingerprinter = new Fingerprinter(session)
    val plan = dataset.queryExecution.executedPlan
    val found = fingerprinter(plan, exchanges(plan)).map {
      case Right(f) =>
        val inputs = fingerprinter.inputs(f)
        val before = inputs.beforeRestore(Inputs.looksBeforeRestores(session, 60000L))
        Map(
          "commit" -> inputs.beforeCommit(Listings.ran(ran.queryExecution.executedPlan)).fold(
            _.code,
            identity
          ),
          "restore" -> before.fold(_.code, identity)
        )
      case Left(r) => Map("commit" -> r.code, "restore" -> r.code)
    }
    json.writeValueAsString(found)
  }

  /**
   * The rows that the n-th exchange of a Dataset's plan is given (planned without adaptive
   * execution): their number, and a sum of hashes in which their order does not count.
   */
  def rows(dataset: Dataset[_], number: Int): String = {
    val execution = dataset.queryExecution
    val below = exchanges(execution.executedPlan)(number).child
    val types = below.output.map(_.dataType).toArray
    val (count, sum) = SQLExecution.withNewExecutionId(execution, Some("rows of an exchange")) {
      below.execute().mapPartitions { rows =>
        val project = UnsafeProjection.create(types)
        rows.map { row =>
          val r = project(row)
          (1L, XXH64.hashUnsafeBytes(r.getBaseObject, r.getBaseOffset, r.getSizeInBytes, 42L))
        }
      }.fold((0L, 0L)) { case ((n, s), (m, t)) => (n + m, s + t) }
    }
    s"$count rows, $sum"
  }

  private def exchangesOf(execution: QueryExecution): String = {
    val fingerprinter = new Fingerprinter(execution.sparkSession)
    val all = exchanges(execution.executedPlan)
    json.writeValueAsString(all.zip(fingerprinter(execution.executedPlan, all)).map { case (e, f) =>
      describe(e, f)
    })
  }

  private def describe(
      e: ShuffleExchangeLike,
      f: Either[Refusal, Fingerprint]
  ): Map[String, Any] = {
    val identity = Map(
      "columns" -> e.output.map(_.toString).mkString(","),
      "partitioning" -> e.outputPartitioning.toString,
      "canonical" -> Digest.of("text", planIds.replaceAllIn(e.canonicalized.treeString, ""))
    )
    f match {
      case Right(p) => identity ++ Map(
          "hash" -> p.hash,
          "roots" -> p.inputs.map(_.root),
          "files" -> p.inputs.map(_.files.length).sum
        )
      case Left(r) => identity ++ Map("code" -> r.code, "args" -> r.args, "message" -> r.message)
    }
  }

  // Which plan a node was made for, in what it prints.
  private val planIds = """plan_id=\d+|id=#\d+""".r

  private def exchanges(plan: SparkPlan): Seq[ShuffleExchangeLike] = {
    val below = plan match {
      case a: AdaptiveSparkPlanExec => exchanges(a.executedPlan)
      case s: QueryStageExec => exchanges(s.plan)
      case r: ReusedExchangeExec => exchanges(r.child)
      case c: CarriesOriginal => exchanges(c.original)
      case other => (other.children ++ other.subqueries).flatMap(exchanges)
    }
    plan match {
      case e: ShuffleExchangeLike => below :+ e
      case _ => below
    }
  }
}
