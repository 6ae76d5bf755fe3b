package org.apache.spark.sql.execution.phoebe

import java.nio.charset.StandardCharsets.UTF_8
import java.nio.file.{Files, Path, StandardOpenOption}
import java.util.{Collections, Map => JMap}
import java.util.concurrent.ConcurrentHashMap

import scala.jdk.CollectionConverters._
import scala.util.control.NonFatal

import org.apache.spark.{SparkContext, TaskContext}
import org.apache.spark.api.plugin.{DriverPlugin, ExecutorPlugin, PluginContext, SparkPlugin}
import org.apache.spark.internal.Logging
import org.apache.spark.rdd.{MapPartitionsRDD, ParallelCollectionRDD, RDD}
import org.apache.spark.sql.SparkSessionExtensions
import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.expressions.{
  Attribute,
  BindReferences,
  InterpretedMutableProjection,
  NamedExpression
}
import org.apache.spark.sql.catalyst.plans.logical.{LogicalPlan, SerializeFromObject}
import org.apache.spark.sql.catalyst.plans.physical.UnknownPartitioning
import org.apache.spark.sql.classic.SparkSession
import org.apache.spark.sql.execution.{phoebe => _, _}
import org.apache.spark.sql.execution.adaptive.{AdaptiveSparkPlanExec, QueryStageExec}
import org.apache.spark.sql.internal.StaticSQLConf.SPARK_SESSION_EXTENSIONS
import org.apache.spark.sql.execution.phoebe.exchange.{CheckpointExchangeExec, RestoredExchangeExec}
import phoebe.Json
import phoebe.planner.PlannerHook
import phoebe.plugin.PhoebeRuntime

/**
 * Makes Spark's own test suites exercise the planner hook (tests/suites). They are plain Spark, run
 * with this second plugin behind the product's, and with this one alone for comparison:
 *
 *   - a plan that a test has looked at before it runs it was made outside of a SQL execution, where
 *     the product leaves it alone; it is shown to the planner hook when it is run;
 *   - test data are parallelised collections, which have no identity; they are scanned as the rows
 *     that they are.
 *
 * At each SparkContext's end a line of JSON goes to the file `phoebe.suites.report`: what was
 * counted; at the JVM's end another one: our threads that outlive all contexts.
 */
final class SuitesPlugin extends SparkPlugin {
  override def driverPlugin(): DriverPlugin = new SuitesDriverPlugin
  override def executorPlugin(): ExecutorPlugin = null
}

private final class SuitesDriverPlugin extends DriverPlugin {
  private var runtime: Option[PhoebeRuntime] = None

  override def init(sc: SparkContext, context: PluginContext): JMap[String, String] = {
    val key = SPARK_SESSION_EXTENSIONS.key
    val extension = classOf[SuitesExtensions].getName
    sc.conf.set(key, (sc.conf.getOption(key).toSeq :+ extension).mkString(","))
    PlansMadeEarly.install()
    SuitesReport.atExit
    runtime = PhoebeRuntime.active.filter(_.sparkContext eq sc)
    Collections.emptyMap()
  }

  /** The product's plugin comes first and has been closed. */
  override def shutdown(): Unit = runtime.foreach { r =>
    SuitesReport.write(Json.line(r.counts.toSeq.sortBy(_._1): _*))
  }
}

private object SuitesReport {
  private val file = Option(System.getProperty("phoebe.suites.report")).map(Path.of(_))

  def write(line: String): Unit = synchronized {
    file.foreach { f =>
      val text = (line + "\n").getBytes(UTF_8)
      Files.write(f, text, StandardOpenOption.CREATE, StandardOpenOption.APPEND)
    }
  }

  lazy val atExit: Unit = Runtime.getRuntime.addShutdownHook(new Thread(() => {
    val names = Thread.getAllStackTraces.keySet.asScala.filter(_.isAlive).map(_.getName)
    if (SparkContext.getActive.isEmpty) {
      write(Json.line("threads_left" -> names.filter(_.startsWith("phoebe")).toSeq.sorted))
    }
  }))
}

/** The planner hook is shown, at the start of an execution, the plans that were made before it. */
private object PlansMadeEarly extends Logging {

  private final class Started extends ConcurrentHashMap[Long, QueryExecution] {
    override def put(id: Long, query: QueryExecution): QueryExecution = {
      try if (PhoebeRuntime.active.isDefined && isPlanned(query)) show(query.executedPlan)
      catch { case NonFatal(e) => logError("suites: a plan made early was not shown", e) }
      super.put(id, query)
    }
  }

  private val lazyPlan = field(classOf[QueryExecution], "lazyExecutedPlan")
  private val current = field(classOf[AdaptiveSparkPlanExec], "currentPhysicalPlan")

  private def field(owner: Class[_], name: String) = {
    val found = owner.getDeclaredField(name)
    found.setAccessible(true)
    found
  }

  /** Once in a JVM: where Spark notes each execution as it starts it, we look at its plan. */
  def install(): Unit = synchronized {
    if (!SQLExecution.executionIdToQueryExecution.isInstanceOf[Started]) {
      val unsafe = field(classOf[sun.misc.Unsafe], "theUnsafe").get(null)
        .asInstanceOf[sun.misc.Unsafe]
      val map = SQLExecution.getClass.getDeclaredField("executionIdToQueryExecution")
      unsafe.putObject(unsafe.staticFieldBase(map), unsafe.staticFieldOffset(map), new Started)
    }
  }

  private def isPlanned(query: QueryExecution): Boolean = {
    val value = lazyPlan.get(query)
    field(value.getClass, "materialized").getBoolean(value)
  }

  /** Subqueries first, as Spark plans them. A plan that has run, or that the hook has seen, stays. */
  private def show(plan: SparkPlan): Unit = {
    plan.foreach(_.expressions.foreach(_.foreach {
      case subquery: ExecSubqueryExpression => show(subquery.plan)
      case _ =>
    }))
    plan.foreach {
      case adaptive: AdaptiveSparkPlanExec if !adaptive.isFinalPlan && isNew(adaptive) =>
        val made = adaptive.executedPlan
        show(made)
        current.set(adaptive, PlannerHook(adaptive.context.session)(made))
      case _ =>
    }
  }

  private def isNew(adaptive: AdaptiveSparkPlanExec) = !adaptive.executedPlan.exists {
    case _: QueryStageExec | _: CheckpointExchangeExec | _: RestoredExchangeExec => true
    case _ => false
  }
}

class SuitesExtensions extends (SparkSessionExtensions => Unit) {
  override def apply(extensions: SparkSessionExtensions): Unit =
    extensions.injectPlannerStrategy(_ => ParallelizedRows)
}

/** A parallelised collection, and what was mapped from one, is scanned as its rows. */
private object ParallelizedRows extends SparkStrategy {
  override def apply(plan: LogicalPlan): Seq[SparkPlan] = plan match {
    case made @ SerializeFromObject(serializer, external: ExternalRDD[_]) =>
      val row = toRow(serializer, external.outputObjAttr)
      scan(made.output, external.rdd)(row)
    case data: LogicalRDD
        if !data.isStreaming && data.outputOrdering.isEmpty &&
          data.outputPartitioning == UnknownPartitioning(0) =>
      scan(data.output, data.rdd)(_.copy())
    case _ => Nil
  }

  private def toRow(serializer: Seq[NamedExpression], input: Attribute): Any => InternalRow = {
    val bound = serializer.map(BindReferences.bindReference[NamedExpression](_, Seq(input)))
    val project = InterpretedMutableProjection.createProjection(bound)
    value => project(InternalRow(value)).copy()
  }

  private def scan[T](output: Seq[Attribute], data: RDD[T])(row: T => InternalRow) =
    if (isLocal(data)) {
      val parts = data.partitions.toSeq
      val rows = parts.flatMap(part => data.compute(part, TaskContext.empty()).map(row).toList)
      val wouldBe = rows.size.min(SparkSession.active.leafNodeDefaultParallelism)
      // Other partitions would make another plan.
      if (rows.nonEmpty && parts.size == wouldBe) Seq(LocalTableScanExec(output, rows, None))
      else Nil
    } else Nil

  /** Computed from the driver's own rows, without a task: at most one step away from them. */
  private def isLocal(data: RDD[_]): Boolean = data match {
    case _: ParallelCollectionRDD[_] => true
    case mapped: MapPartitionsRDD[_, _] => mapped.prev.isInstanceOf[ParallelCollectionRDD[_]]
    case _ => false
  }
}
