package phoebe.planner

import org.apache.spark.{SparkConf, SparkContext, SparkEnv}
import org.apache.spark.sql.classic.SparkSession
import org.apache.spark.sql.execution.{SparkPlan, SQLExecution}
import org.apache.spark.sql.execution.phoebe.compat.{SparkInternals, SparkVersion}
import phoebe.Reason
import phoebe.fingerprint.AllowList
import phoebe.settings.{LocalProperties, PhoebeSettings}

/** The plans and sessions that the planner hook leaves unchanged, with the reason. */
object SupportChecks {

  /** Plans that are not a user's query, or must not be changed. */
  def plan(sc: SparkContext): Option[Reason] = {
    def property(key: String) = Option(sc.getLocalProperty(key))
    if (property(LocalProperties.Internal).isDefined)
      Some(Reason("own_job", "a job of our own"))
    else if (property(LocalProperties.Recomputing).isDefined) {
      Some(Reason("recomputing", "what a checkpoint that cannot be read stood for is computed"))
    } else if (property(SparkVersion.StreamingQueryId).isDefined) {
      Some(Reason("streaming", "streaming queries and foreachBatch are left alone"))
    } else if (property(SQLExecution.EXECUTION_ID_KEY).isEmpty) {
      Some(Reason("no_execution", "planned outside a SQL execution"))
    } else None
  }

  /** Why this application's shuffles cannot be checkpointed at all; then it is only observed. */
  def application(settings: PhoebeSettings): Option[Reason] = {
    val env = SparkEnv.get
    if (!SparkInternals.hasSortShuffle(env)) {
      val name = env.shuffleManager.getClass.getName
      Some(Reason(
        "unknown_shuffle_manager",
        s"shuffles are managed by $name",
        Map("class" -> name)
      ))
    } else if (accelerator(env.conf).isDefined) accelerator(env.conf)
    else if (SparkInternals.usesOldFetchProtocol(env.conf)) {
      // A map output is then known by its index, so two attempts of a task have one name.
      Some(Reason("old_fetch_protocol", s"${SparkInternals.OldFetchProtocol} is on"))
    } else if (env.conf.getInt(StageAttempts, 2) < 2) {
      // Spark aborts before anything could be computed in the store's stead.
      val message = s"$StageAttempts is 1: output that the store loses would fail the job"
      Some(Reason("one_stage_attempt", message))
    } else if (SparkInternals.shufflesByPush(env.conf)) {
      Some(Reason("push_based_shuffle", "push-based shuffle is on"))
    } else if (SparkInternals.encryptsShuffles(env.conf) && !settings.storeEncrypts) {
      val message =
        "spark.io.encryption.enabled is on, and spark.phoebe.checkpoint.encryption does " +
          "not say that the store encrypts what it holds"
      Some(Reason("io_encryption", message))
    } else if (
      SparkInternals.encryptsShuffles(env.conf) && !SparkInternals.compressesShuffles(env.conf)
    ) {
      Some(Reason("io_encryption", "encrypted shuffles that are not compressed are left alone"))
    } else None
  }

  private val StageAttempts = "spark.stage.maxConsecutiveAttempts"

  /** A plugin or extension that replaces Spark's operators by its own, after our hook. */
  def accelerator(conf: SparkConf): Option[Reason] = {
    SparkInternals.pluginsAndExtensions(conf).flatMap { name =>
      Accelerators.collectFirst {
        case (who, prefixes) if prefixes.exists(name.startsWith) =>
          Reason("accelerator", s"$who ($name) replaces operators", Map("class" -> name))
      }
    }.headOption
  }

  /**
   * Rules of other extensions that change physical plans: they know only Spark's own exchange, and their
   * changes are not known here. Delta Lake's extension has none.
   */
  def session(session: SparkSession): Option[Reason] = {
    val state = session.sessionState
    val adaptive = state.adaptiveRulesHolder
    val rules = adaptive.queryStagePrepRules ++ adaptive.queryStageOptimizerRules ++
      adaptive.queryPostPlannerStrategyRules
    state.columnarRules.headOption.map { rule =>
      val name = rule.getClass.getName
      Reason("columnar_rules", s"an extension has columnar rules ($name)", Map("class" -> name))
    }.orElse(rules.find(!_.isInstanceOf[PlannerHook]).map { rule =>
      val name = rule.getClass.getName
      Reason(
        "physical_rules",
        s"another extension changes physical plans ($name)",
        Map("class" -> name)
      )
    })
  }

  /** Operators that are neither Spark's nor Delta Lake's, in a plan with its subqueries. */
  def operators(plan: SparkPlan): Option[Reason] =
    SparkVersion.collectFirst(plan) {
      case node if !isKnown(node.getClass.getName) => node.getClass.getName
    }.map { name =>
      Reason(
        "foreign_operator",
        s"the plan has an operator of others ($name)",
        Map("class" -> name)
      )
    }

  private def isKnown(name: String): Boolean =
    Operators(name) || name.startsWith("org.apache.spark.sql.execution.phoebe.") ||
      name.startsWith("org.apache.spark.sql.delta.")

  /** All physical operators of this Spark, by exact class. */
  private[phoebe] lazy val Operators: Set[String] = AllowList.lines("known-operators.txt").toSet

  private val Accelerators = Seq(
    "RAPIDS" -> Seq("com.nvidia.spark."),
    "Comet" -> Seq("org.apache.spark.CometPlugin", "org.apache.comet."),
    "Gluten" -> Seq("org.apache.gluten.", "io.glutenproject."),
    "Auron" -> Seq("org.apache.auron.", "org.apache.spark.sql.auron."),
    "Blaze" -> Seq("org.apache.spark.sql.blaze.", "org.apache.spark.BlazeSparkSessionExtension"),
    "Gazelle" -> Seq("com.intel.oap.")
  )
}
