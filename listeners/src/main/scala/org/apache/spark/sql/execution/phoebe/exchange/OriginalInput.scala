// In Spark's package for RDD.mapPartitionsInternal (private[spark]).
package org.apache.spark.sql.execution.phoebe.exchange

import java.util.Properties

import scala.collection.mutable

import org.apache.spark.SparkException
import org.apache.spark.rdd.{DeterministicLevel, RDD}
import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.expressions.{DynamicPruningExpression, Literal}
import org.apache.spark.sql.execution.{phoebe => _, _}
import org.apache.spark.sql.execution.exchange.ShuffleExchangeExec
import org.apache.spark.sql.execution.reuse.ReuseExchangeAndSubquery
import org.apache.spark.sql.execution.phoebe.compat.QueryContext
import phoebe.settings.LocalProperties

/**
 * The map side of a restored boundary, as it is computed without a checkpoint. It is planned only when
 * the checkpoint cannot be read, because planning may run jobs of the query (subqueries, broadcasts, the
 * samples of a range partitioning).
 */
private[phoebe] object OriginalInput {

  /**
   * @param properties
   *   the local properties of the job that needs it
   * @return
   *   rows with their reduce partitions, as Spark's shuffle writer takes them
   */
  def mapSide(
      exchange: RestoredExchangeExec,
      query: QueryContext,
      properties: Properties
  ): RDD[Product2[Int, InternalRow]] = {
    val own = properties.clone().asInstanceOf[Properties]
    own.setProperty(LocalProperties.Recomputing, "true")
    query.runWith(own) {
      SQLExecution.withSQLConfPropagated(query.session) {
        val original = exchange.child match {
          case input: RestoredInputExec => input.original
          case other => throw SparkException.internalError(s"not a restored input: $other")
        }
        val planned = plan(original, query)
        val dependency = ShuffleExchangeExec.prepareShuffleDependency(
          planned.execute(),
          planned.output,
          exchange.outputPartitioning,
          new UnsafeRowSerializer(planned.output.size),
          Map.empty
        )
        val rows = dependency.rdd
        if (rows.outputDeterministicLevel == DeterministicLevel.INDETERMINATE) {
          throw SparkException.internalError("its rows can differ from one attempt to the next")
        }
        listPartitions(rows)
        within(rows, dependency.partitioner.numPartitions, exchange.numPartitions)
      }
    }
  }

  /** Applies the rules that adaptive execution applies to a stage before it runs, to all stages. */
  private def plan(original: SparkPlan, query: QueryContext): SparkPlan = {
    // These filters need a join that adaptive execution would broadcast. They only save work.
    val unpruned = original.transformAllExpressions {
      case DynamicPruningExpression(InSubqueryExec(
            _,
            _: SubqueryAdaptiveBroadcastExec,
            _,
            _,
            _,
            _
          )) =>
        DynamicPruningExpression(Literal.TrueLiteral)
    }
    val rules = Seq(
      ApplyColumnarRulesAndInsertTransitions(
        query.session.sessionState.columnarRules,
        outputsColumnar = false
      ),
      CollapseCodegenStages(),
      ReuseExchangeAndSubquery
    )
    rules.foldLeft(unpruned)((plan, rule) => rule(plan))
  }

  /** Files are listed here, not on the scheduler's thread. */
  private def listPartitions(rdd: RDD[_]): Unit = {
    val seen = mutable.Set.empty[Int]
    var open = List[RDD[_]](rdd)
    while (open.nonEmpty) {
      val next = open.head
      open = open.tail
      if (seen.add(next.id)) {
        next.partitions
        open = next.dependencies.map(_.rdd).toList ++ open
      }
    }
  }

  /** A range partitioning may find more ranges than before. Then the last ones become one. */
  private def within(
      rows: RDD[Product2[Int, InternalRow]],
      found: Int,
      limit: Int
  ): RDD[Product2[Int, InternalRow]] =
    if (found <= limit) rows
    else rows.mapPartitionsInternal(_.map { row =>
      if (row._1 < limit) row else (limit - 1, row._2): Product2[Int, InternalRow]
    })
}
