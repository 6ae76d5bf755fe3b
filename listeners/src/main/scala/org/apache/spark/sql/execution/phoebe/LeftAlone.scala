package org.apache.spark.sql.execution.phoebe

import org.apache.spark.{SparkContext, SparkEnv}
import org.apache.spark.internal.config.{IO_ENCRYPTION_ENABLED, SHUFFLE_COMPRESS}
import org.apache.spark.shuffle.sort.SortShuffleManager
import org.apache.spark.sql.execution.SQLExecution
import org.apache.spark.sql.execution.streaming.runtime.StreamExecution
import org.apache.spark.util.Utils

/** What the planner hook does not touch, with the reason. */
private[phoebe] object LeftAlone {

  /** Plans that are not a query of the user's, or none that we may change. */
  def plan(sc: SparkContext): Option[Reason] = {
    def property(key: String) = Option(sc.getLocalProperty(key))
    if (property(PhoebeRuntime.InternalProperty).isDefined)
      Some(Reason("own_job", "a job of our own"))
    else if (property(OriginalInput.Recomputing).isDefined) {
      Some(Reason("recomputing", "what a checkpoint that cannot be read stood for is computed"))
    } else if (property(StreamExecution.QUERY_ID_KEY).isDefined) {
      Some(Reason("streaming", "streaming queries and foreachBatch are left alone"))
    } else if (property(SQLExecution.EXECUTION_ID_KEY).isEmpty) {
      Some(Reason("no_execution", "planned outside a SQL execution"))
    } else None
  }

  /** Why this application's shuffles cannot be checkpointed at all; then it is only observed. */
  def application(settings: PhoebeSettings): Option[Reason] = {
    val env = SparkEnv.get
    if (env.shuffleManager.getClass != classOf[SortShuffleManager]) {
      val name = env.shuffleManager.getClass.getName
      Some(Reason(
        "unknown_shuffle_manager",
        s"shuffles are managed by $name",
        Map("class" -> name)
      ))
    } else if (Utils.isPushBasedShuffleEnabled(env.conf, isDriver = true)) {
      Some(Reason("push_based_shuffle", "push-based shuffle is on"))
    } else if (env.conf.get(IO_ENCRYPTION_ENABLED) && !settings.storeEncrypts) {
      val message =
        "spark.io.encryption.enabled is on, and spark.phoebe.checkpoint.encryption does " +
          "not say that the store encrypts what it holds"
      Some(Reason("io_encryption", message))
    } else if (env.conf.get(IO_ENCRYPTION_ENABLED) && !env.conf.get(SHUFFLE_COMPRESS)) {
      Some(Reason("io_encryption", "encrypted shuffles that are not compressed are left alone"))
    } else None
  }
}
