/*
 * The internals of Spark that differ between 4.0, 4.1 and 4.2, as they are in 4.2. No other file names
 * these symbols, except for the scheduler's (`org.apache.spark.scheduler.phoebe.compat`). A build for
 * another version has its own object, in a file named for that version. In Spark's package for ShuffleStatus,
 * RDDOperationScope and SparkPlan.rddScopeId (private[spark]).
 */
package org.apache.spark.sql.execution.phoebe.compat

import java.util.Properties

import org.apache.hadoop.conf.Configuration
import org.apache.hadoop.fs.Options

import org.apache.spark.{PartitionIdPassthrough, ShuffleDependency, ShuffleStatus, SparkContext}
import org.apache.spark.broadcast.Broadcast
import org.apache.spark.rdd.{RDD, RDDOperationScope}
import org.apache.spark.serializer.Serializer
import org.apache.spark.shuffle.ShuffleWriteProcessor
import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.expressions.{
  Add,
  EvalMode,
  Expression,
  Multiply,
  UnsafeRowChecksum
}
import org.apache.spark.sql.catalyst.expressions.aggregate.Sum
import org.apache.spark.sql.classic.SparkSession
import org.apache.spark.sql.execution.{
  OneRowRelationExec,
  SparkPlan,
  SQLExecution,
  SQLExecutionThreadLocalCaptured
}
import org.apache.spark.sql.execution.streaming.runtime.StreamExecution
import org.apache.spark.sql.internal.SQLConf
import org.apache.spark.util.SerializableConfiguration

object SparkVersion {

  /** The place of this version's allow-lists in the jar. */
  val Lists = "/phoebe/allowlist/4.2/"

  type RowShuffle = ShuffleDependency[Int, InternalRow, InternalRow]

  /**
   * A shuffle of rows with their partitions, with the checksums that the session's settings ask for. 4.0
   * has no checksums of rows. 4.1 rolls back stages by them (two more arguments), 4.2 whole queries (one
   * more).
   */
  def rowShuffle(
      rows: RDD[Product2[Int, InternalRow]],
      numPartitions: Int,
      serializer: Serializer,
      writer: ShuffleWriteProcessor,
      conf: SQLConf
  ): RowShuffle = {
    val checksums = conf.shuffleOrderIndependentChecksumEnabled ||
      conf.shuffleChecksumMismatchFullRetryEnabled
    new ShuffleDependency[Int, InternalRow, InternalRow](
      rows,
      new PartitionIdPassthrough(numPartitions),
      serializer,
      shuffleWriterProcessor = writer,
      rowBasedChecksums =
        UnsafeRowChecksum.createUnsafeRowChecksums(if (checksums) numPartitions else 0),
      _checksumMismatchFullRetryEnabled = conf.shuffleChecksumMismatchFullRetryEnabled,
      checksumMismatchQueryLevelRollbackEnabled =
        conf.shuffleChecksumMismatchQueryLevelRollbackEnabled
    )
  }

  /** The same shuffle under another id, its map outputs written by `writer`. As above. */
  def withWriter(plain: RowShuffle, writer: ShuffleWriteProcessor): RowShuffle =
    new ShuffleDependency[Int, InternalRow, InternalRow](
      plain.rdd,
      plain.partitioner,
      plain.serializer,
      plain.keyOrdering,
      plain.aggregator,
      plain.mapSideCombine,
      writer,
      plain.rowBasedChecksums,
      plain.checksumMismatchFullRetryEnabled,
      plain.checksumMismatchQueryLevelRollbackEnabled
    )

  /** Whether Spark notes an order-independent checksum of each output's rows. Never in 4.0. */
  def checksRows(dependency: ShuffleDependency[_, _, _]): Boolean =
    dependency.rowBasedChecksums.nonEmpty

  /**
   * Whether an output that was computed again had other rows than before. Call it under the status's
   * lock. Not known in 4.0.
   */
  def hasChecksumMismatch(status: ShuffleStatus): Boolean =
    status.checksumMismatchIndices.nonEmpty

  /**
   * The mode (ANSI and so on) in which numbers are added or multiplied; None for other expressions. In
   * 4.0 the mode itself is the operators' argument; since 4.1 it is a part of a context.
   */
  def evalMode(e: Expression): Option[EvalMode.Value] = e match {
    case a: Add => Some(a.evalContext.evalMode)
    case m: Multiply => Some(m.evalContext.evalMode)
    case s: Sum => Some(s.evalContext.evalMode)
    case _ => None
  }

  /** `SELECT` without `FROM`. 4.0 plans it as a scan of an RDD. */
  def isOneRow(plan: SparkPlan): Boolean = plan.isInstanceOf[OneRowRelationExec]

  /** Searches a plan and its subqueries. 4.0 has only `collectWithSubqueries`. */
  def collectFirst[T](plan: SparkPlan)(pick: PartialFunction[SparkPlan, T]): Option[T] =
    plan.collectFirstWithSubqueries(pick)

  /** Local property of a streaming query's threads. Its class has another package in 4.0. */
  def StreamingQueryId: String = StreamExecution.QUERY_ID_KEY

  /** Broadcasts settings for tasks. In 4.0 there is no such method. */
  def broadcast(sc: SparkContext, conf: Configuration): Broadcast[SerializableConfiguration] =
    SerializableConfiguration.broadcast(sc, conf)

  /** RDDs made in `body` are shown as those of `plan`. Before 4.2 a scope takes no id. */
  def withScope[T](sc: SparkContext, plan: SparkPlan)(body: => T): T =
    RDDOperationScope.withScope(sc, plan.nodeName, false, true, plan.rddScopeId)(body)

  /**
   * Option of a file system's builder: fail if the file exists. Hadoop has the name since 3.4.2, which
   * comes with Spark 4.1.
   */
  def CreateIfAbsent: String =
    Options.CreateFileOptionKeys.FS_OPTION_CREATE_CONDITIONAL_OVERWRITE
}

/**
 * A query's thread-locals (session, local properties, artifacts), for another thread that works for the
 * query. Before 4.2 Spark captures them only for its own pools, in one step
 * (`SQLExecution.withThreadLocalCaptured`).
 */
private[phoebe] final class QueryContext private (captured: SQLExecutionThreadLocalCaptured) {
  def session: SparkSession = captured.sparkSession
  def properties: Properties = captured.localProps

  /** Runs `body` as a part of the query, with these local properties instead of its own. */
  def runWith[T](properties: Properties)(body: => T): T =
    captured.copy(localProps = properties).runWith(body)
}

private[phoebe] object QueryContext {

  /** The context of the calling thread. */
  def of(session: SparkSession): QueryContext =
    new QueryContext(SQLExecution.captureThreadLocals(session))
}
