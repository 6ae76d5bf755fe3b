/*
 * For tests and benchmarks: a session extension that fingerprints every exchange on every planning
 * pass, exactly where the planner hook stands, and keeps what it saw. Changes no plan.
 *
 *   spark.sql.extensions=org.apache.spark.sql.execution.phoebe.fingerprint.FingerprintProbe
 */
package org.apache.spark.sql.execution.phoebe.fingerprint

import java.lang.management.ManagementFactory
import java.util.concurrent.{ConcurrentHashMap, ConcurrentLinkedQueue}

import com.fasterxml.jackson.databind.ObjectMapper
import com.fasterxml.jackson.module.scala.DefaultScalaModule

import org.apache.spark.sql.SparkSessionExtensions
import org.apache.spark.sql.catalyst.rules.Rule
import org.apache.spark.sql.classic.{Dataset, SparkSession}
import org.apache.spark.sql.execution.{QueryExecution, SparkPlan, SQLExecution}
import org.apache.spark.sql.execution.adaptive.{AdaptiveSparkPlanExec, QueryStageExec}
import org.apache.spark.sql.execution.exchange.{ReusedExchangeExec, ShuffleExchangeLike}

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

  private[fingerprint] final case class Recorder(session: SparkSession) extends Rule[SparkPlan] {
    override def apply(plan: SparkPlan): SparkPlan = {
      val execution = session.sparkContext.getLocalProperty(SQLExecution.EXECUTION_ID_KEY)
      val start = threads.getCurrentThreadCpuTime
      val all = exchanges(plan)
      val found = all.zip(ofExecution(session, execution)(all))
      val elapsed = threads.getCurrentThreadCpuTime - start
      val afresh = new Fingerprinter(session)(all).map(_.map(_.hash))
      seen.add(Map(
        "execution" -> execution,
        "cpu_ns" -> elapsed,
        "agrees" -> (found.map(_._2.map(_.hash)) == afresh),
        "exchanges" -> found.map { case (e, f) => describe(e, f) }
      ))
      plan
    }
  }

  // As the planner hook does it: one for all passes of an execution.
  private val ofExecutions = new ConcurrentHashMap[String, Fingerprinter]
  private def ofExecution(session: SparkSession, execution: String): Fingerprinter =
    ofExecutions.computeIfAbsent(
      s"${session.sessionUUID} $execution",
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

  /** Whether a Dataset's listed inputs are as they were. */
  def unchanged(dataset: Dataset[_]): Boolean = {
    val fingerprinter = new Fingerprinter(dataset.sparkSession)
    fingerprinter(exchanges(dataset.queryExecution.executedPlan)).forall {
      case Right(f) => Fingerprinter.look(dataset.sparkSession, f.inputs)()
      case Left(_) => false
    }
  }

  private def exchangesOf(execution: QueryExecution): String = {
    val fingerprinter = new Fingerprinter(execution.sparkSession)
    val all = exchanges(execution.executedPlan)
    json.writeValueAsString(all.zip(fingerprinter(all)).map { case (e, f) => describe(e, f) })
  }

  private def describe(
      e: ShuffleExchangeLike,
      f: Either[Refusal, Fingerprint]
  ): Map[String, Any] = {
    val identity = Map(
      "columns" -> e.output.map(_.toString).mkString(","),
      "partitioning" -> e.outputPartitioning.toString,
      "canonical" -> Digest.of("text", e.canonicalized.treeString)
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
