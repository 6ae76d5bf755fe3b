// In Spark's package for Utils, ThreadUtils, ShutdownHookManager, AccumulatorContext (private[spark])
// and the other single members that its functions pass on.
package org.apache.spark.sql.execution.phoebe.compat

import java.util.{Map => JMap}
import java.util.concurrent.{ScheduledExecutorService, ThreadFactory, ThreadPoolExecutor}

import org.apache.hadoop.conf.Configuration

import org.apache.spark.{SparkConf, SparkContext, SparkEnv}
import org.apache.spark.deploy.SparkHadoopUtil
import org.apache.spark.internal.config.{
  IO_ENCRYPTION_ENABLED,
  PLUGINS,
  SHUFFLE_COMPRESS,
  SHUFFLE_USE_OLD_FETCH_PROTOCOL
}
import org.apache.spark.io.CompressionCodec
import org.apache.spark.scheduler.{AccumulableInfo, SparkListenerInterface}
import org.apache.spark.shuffle.sort.SortShuffleManager
import org.apache.spark.sql.catalyst.plans.logical.Aggregate
import org.apache.spark.sql.internal.{SQLConf, StaticSQLConf}
import org.apache.spark.sql.types
import org.apache.spark.sql.types.DataType
import org.apache.spark.util.{
  AccumulatorContext,
  HadoopFSUtils,
  ShutdownHookManager,
  ThreadUtils,
  Utils
}

/**
 * Single members that are private to Spark (`private[spark]`, `private[sql]`) and the same in 4.0, 4.1
 * and 4.2, for code outside of Spark's packages that needs no others.
 */
object SparkInternals {

  // Threads, made like Spark's own: daemons, named for what they do.

  def cachedThreads(name: String, most: Int, keepAliveS: Int = 60): ThreadPoolExecutor =
    ThreadUtils.newDaemonCachedThreadPool(name, most, keepAliveS)

  def scheduledThread(name: String): ScheduledExecutorService =
    ThreadUtils.newDaemonSingleThreadScheduledExecutor(name)

  def threadFactory(name: String): ThreadFactory = ThreadUtils.namedThreadFactory(name)

  /** All results, in order, computed in parallel. */
  def inParallel[T, R](items: Seq[T], name: String, most: Int)(body: T => R): Seq[R] =
    ThreadUtils.parmap(items, name, most)(body)

  // The application.

  /** The application's own settings, not a copy. */
  def conf(sc: SparkContext): SparkConf = sc.conf

  /** Adds a listener in its own queue, so that slow listeners of others do not delay it. */
  def addListener(sc: SparkContext, listener: SparkListenerInterface, queue: String): Unit =
    sc.listenerBus.addToQueue(listener, queue)

  /** @throws java.util.concurrent.TimeoutException if listeners have not received all events by then */
  def drainListeners(sc: SparkContext, timeoutMs: Long): Unit =
    sc.listenerBus.waitUntilEmpty(timeoutMs)

  /** Whether this process is ending. */
  def isShuttingDown: Boolean = ShutdownHookManager.inShutdown()

  /** Hadoop's settings for an application that is not started. */
  def hadoopConf(conf: SparkConf): Configuration = SparkHadoopUtil.get.newConfiguration(conf)

  def extensionsSetting: String = StaticSQLConf.SPARK_SESSION_EXTENSIONS.key

  /** The classes of its plugins and of its sessions' extensions. */
  def pluginsAndExtensions(conf: SparkConf): Seq[String] =
    conf.get(PLUGINS) ++ conf.get(StaticSQLConf.SPARK_SESSION_EXTENSIONS).getOrElse(Nil)

  // Its shuffles.

  def hasSortShuffle(env: SparkEnv): Boolean =
    env.shuffleManager.getClass == classOf[SortShuffleManager]

  def shufflesByPush(conf: SparkConf): Boolean =
    Utils.isPushBasedShuffleEnabled(conf, isDriver = true)

  def encryptsShuffles(conf: SparkConf): Boolean = conf.get(IO_ENCRYPTION_ENABLED)

  def compressesShuffles(conf: SparkConf): Boolean = conf.get(SHUFFLE_COMPRESS)

  /** The short name of the codec, or `none`. */
  def shuffleCodec(conf: SparkConf): String =
    if (compressesShuffles(conf)) CompressionCodec.getCodecName(conf) else "none"

  val OldFetchProtocol: String = SHUFFLE_USE_OLD_FETCH_PROTOCOL.key

  def usesOldFetchProtocol(conf: SparkConf): Boolean = conf.get(SHUFFLE_USE_OLD_FETCH_PROTOCOL)

  // Events.

  /** The name of a result's or reason's class in event logs. */
  def formattedClass(value: AnyRef): String = Utils.getFormattedClassName(value)

  def isSqlMetric(accumulable: AccumulableInfo): Boolean =
    accumulable.metadata.contains(AccumulatorContext.SQL_ACCUM_IDENTIFIER)

  // Plans, types, settings and files.

  type IntegralType = types.IntegralType
  type AnsiIntervalType = types.AnsiIntervalType

  /** Whether a predicate holds for a type or a type inside it. */
  def exists(t: DataType)(is: DataType => Boolean): Boolean = t.existsRecursively(is)

  /** Whether an aggregate has keys and no functions. */
  def hasKeysOnly(a: Aggregate): Boolean = a.groupOnly

  /** The settings of a session: the map itself, not a copy. */
  def settings(conf: SQLConf): JMap[String, String] = conf.settings

  /** Settings as Spark shows them, with secrets hidden. */
  def redacted(conf: SparkConf, settings: Seq[(String, String)]): Map[String, String] =
    Utils.redact(conf, settings).toMap

  /** Whether Spark skips a file of that name when it lists a table. */
  def isHiddenFile(name: String): Boolean = HadoopFSUtils.shouldFilterOutPathName(name)
}
