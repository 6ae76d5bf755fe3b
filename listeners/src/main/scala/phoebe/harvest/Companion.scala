package phoebe.harvest

import java.io.IOException
import java.nio.file.Files
import java.nio.file.Paths
import java.util.concurrent.{CompletableFuture, ConcurrentHashMap, CountDownLatch, TimeUnit}
import java.util.concurrent.TimeoutException
import java.util.concurrent.atomic.AtomicLong

import scala.collection.mutable
import scala.jdk.CollectionConverters._
import scala.util.{Success, Try}
import scala.util.control.NonFatal

import com.fasterxml.jackson.databind.JsonNode
import org.apache.hadoop.conf.Configuration

import org.apache.spark.SPARK_VERSION
import org.apache.spark.internal.Logging
import org.apache.spark.scheduler.{phoebe => _, _}
import phoebe.{FailSafe, Json, Reason}
import phoebe.settings.PhoebeSettings

/**
 * The driver's end of the pipe to the companion (docs/protocol.md).
 *
 * One daemon thread owns the pipe: it starts the process, serialises what the queue holds and
 * writes it. Nobody else ever waits for the companion, except `ask`, for at most the advice
 * timeout. When the companion cannot start, ends, hangs or answers something else, one line says so
 * and the same lines go to a spool file instead; when that cannot be written either, harvesting is
 * off. The job runs on in any case.
 */
final class Companion private[phoebe] (
    settings: PhoebeSettings,
    hadoop: Configuration
) extends Logging {
  import Companion._

  private[phoebe] val queue = new EventQueue(settings.queueCapacity)
  private val requestIds = new AtomicLong()
  private val pending = new ConcurrentHashMap[Long, CompletableFuture[Advice]]()
  private val finished = new CountDownLatch(1)

  @volatile private var identity: Identity = _
  @volatile private var process: CompanionProcess = _
  @volatile private var spool: Spool = _
  @volatile private var failure: Option[String] = None
  @volatile private var ready = false
  @volatile private var ending = false
  @volatile private var offBecause: Option[String] = None
  @volatile private var shapes = Set.empty[String]
  @volatile private var model: Option[String] = None

  // The writer thread's own.
  private val eventLines = new EventLines
  private val versions = new PlanVersions
  private val header = mutable.ArrayBuffer.empty[String]
  private val backlog = mutable.ArrayBuffer.empty[String]
  private var backlogBytes = 0L
  private var backlogLost = false
  private var sentLines = 0L
  private var droppedReported = 0L
  private var droppedReportedAt = 0L
  private var startedAt = 0L

  /** Plan shapes whose past runs were at least `min_duration_ms` long. Empty until `ready`. */
  def longShapes: Set[String] = shapes

  /** The promoted model's version, once the companion has loaded it. */
  def modelVersion: Option[String] = model

  /** `starting`, `ready`, `spooling`, `off` or `ended`. */
  def state: String =
    if (finished.getCount == 0) "ended"
    else if (offBecause.isDefined) "off"
    else if (spool != null) "spooling"
    else if (ready) "ready"
    else "starting"

  /**
   * Hands a message to the writer thread, which puts it into words: values must not change any more.
   * Never waits, never throws.
   */
  def send(fields: (String, Any)*): Unit =
    FailSafe.run("send")(if (offBecause.isEmpty) queue.message(Json.line(fields: _*)))

  /**
   * Shows the companion a plan that advice may be asked about: it predicts while the plan's
   * boundaries are looked up. Right: what to [[ask]] with. Never waits.
   */
  def show(
      executionId: Long,
      slots: Int,
      minDurationMs: Long,
      plan: () => JsonNode,
      boundaries: => Seq[JsonNode]
  ): Either[Reason, Long] =
    if (state != "ready") {
      Left(Reason("companion_not_ready", s"the companion is $state", Map("state" -> state)))
    } else {
      val id = requestIds.incrementAndGet()
      val told = boundaries
      // The writer's thread makes the plan's text while this one goes on planning.
      def line = Json.line(
        "type" -> "plan",
        "request_id" -> id,
        "execution_id" -> executionId,
        "slots" -> slots,
        "min_duration_ms" -> minDurationMs,
        "plan" -> plan,
        "boundaries" -> told
      )
      if (queue.request(line)) Right(id) else Left(Busy)
    }

  /**
   * Advice about the boundaries of a plan that was shown. Waits for at most
   * `spark.phoebe.advice.timeout_ms`. Left: why there is none.
   */
  def ask(id: Long, boundaries: Seq[BoundaryRequest]): Either[Reason, Advice] = {
    val began = System.nanoTime()
    if (state != "ready") {
      Left(Reason("companion_not_ready", s"the companion is $state", Map("state" -> state)))
    } else {
      val answer = new CompletableFuture[Advice]()
      pending.put(id, answer)
      try {
        val line = Json.line(
          "type" -> "advise",
          "request_id" -> id,
          "boundaries" -> boundaries.map(_.toJson)
        )
        if (!queue.request(line)) Left(Busy)
        else {
          val spentMs = (System.nanoTime() - began) / 1000000L
          Right(answer.get(math.max(1L, settings.adviceTimeoutMs - spentMs), TimeUnit.MILLISECONDS))
        }
      } catch {
        case _: TimeoutException =>
          val ms = settings.adviceTimeoutMs
          Left(Reason("advice_timeout", s"no advice within $ms ms", Map("timeout_ms" -> ms)))
        case e: InterruptedException => throw e
        case NonFatal(e) =>
          Left(Reason("advice_failed", s"asking for advice failed: ${e.getMessage}"))
      } finally pending.remove(id)
    }
  }

  /** Starts the writer thread, which starts everything else; returns at once. */
  def start(who: Identity): Unit = {
    identity = who
    startedAt = System.nanoTime()
    daemon("phoebe-writer") {
      try write()
      finally finished.countDown()
    }
    daemon("phoebe-watchdog")(watch())
  }

  /** Ends the stream and waits, at most `timeoutMs`, until everything is handed over. */
  def close(timeoutMs: Long): Unit = {
    ending = true
    queue.end()
    if (identity != null && !finished.await(timeoutMs, TimeUnit.MILLISECONDS)) {
      // A writer that hangs in the pipe now goes on to the spool.
      fail(s"it did not take all events within ${timeoutMs / 1000} s of the application's end")
      finished.await(CloseGraceMs, TimeUnit.MILLISECONDS)
    }
  }

  private def write(): Unit = {
    homeProblem() match {
      case Some(problem) => turnOff(problem)
      case None if settings.spools => fail("spark.phoebe.harvest.sink=spool")
      case None => launch()
    }
    line(hello(continued = false), isHeader = true)
    var open = true
    while (open) {
      if (failure.isDefined && spool == null && offBecause.isEmpty) spoolInstead(failure.get)
      FailSafe("plan versions", Seq.empty[SparkListenerEvent])(versions.due()).foreach(event)
      queue.poll(PollMs) match {
        case null => flush()
        case EventQueue.Message(text) =>
          serialised(text()).foreach(line(_))
          if (queue.isEmpty) flush()
        case request: EventQueue.Request =>
          serialised(request.line()).foreach(line(_))
          flush()
        case EventQueue.Event(happened) =>
          FailSafe("plan versions", Seq(happened))(versions(happened)).foreach(event)
        case EventQueue.End =>
          versions.rest().foreach(event)
          reportDropped(now = true)
          line(Json.line("type" -> "end", "time" -> System.currentTimeMillis()))
          finish()
          open = false
      }
      if (open) reportDropped(now = false)
    }
  }

  private def event(happened: SparkListenerEvent): Unit =
    serialised(eventLines(happened)) match {
      case Some(text) => line(text, isHeader(happened))
      case None => queue.lost()
    }

  private def serialised(text: => String): Option[String] =
    FailSafe("serialise", Option.empty[String])(Some(text))

  private def launch(): Unit =
    try {
      val environment = HadoopSettings.environment(settings.home, hadoop)
      process = CompanionProcess.start(settings.python, environment, onMessage, fail)
    } catch {
      case e: IOException => fail(s"${settings.python} cannot be started: ${e.getMessage}")
    }

  private def line(text: String, isHeader: Boolean = false): Unit = {
    if (isHeader && header.size < MaxHeader) header += text
    if (offBecause.isEmpty) {
      if (spool != null) spooled(_.write(text))
      else {
        sentLines += 1
        keep(text)
        if (process != null && failure.isEmpty) {
          try process.write(text)
          catch { case _: IOException => fail(process.lastWords()) }
        }
      }
    }
  }

  /** Until the companion has shown that it reads, everything is kept, so that nothing is lost. */
  private def keep(text: String): Unit =
    if (ready && failure.isEmpty) {
      backlog.clear()
      backlogLost = true
    } else if (!backlogLost) {
      backlog += text
      backlogBytes += text.length
      if (backlogBytes > MaxBacklogBytes) {
        backlog.clear()
        backlogLost = true
      }
    }

  private def flush(): Unit =
    if (spool != null) spooled(_.flush())
    else if (process != null && failure.isEmpty) {
      try process.flush()
      catch { case _: IOException => fail(process.lastWords()) }
    }

  private def finish(): Unit = {
    flush()
    if (spool == null && offBecause.isEmpty) {
      val tookAll = failure.isEmpty && (Try(process.finish(FinishMs)) match {
        case Success(true) if ready => true
        case Success(false) =>
          fail("it did not end when its input ended")
          false
        case _ => // gone before it was ready, or before it had read all
          fail(process.lastWords())
          false
      })
      if (!tookAll) spoolInstead(failure.get)
    }
    if (spool != null) spooled(_.close())
  }

  /** Anything the companion said or did that ends our trust in it. */
  private def fail(what: String): Unit = synchronized {
    if (failure.isEmpty) {
      failure = Some(what)
      Option(process).foreach(_.kill())
    }
  }

  private def spoolInstead(what: String): Unit = {
    shapes = Set.empty
    try {
      val file = Spool.open(settings.home, identity.appId, identity.attempt, hadoop)
      spool = file
      if (backlogLost) {
        // What the companion had not yet stored is gone with it: the run counts as incomplete.
        file.write(hello(continued = true))
        header.drop(1).foreach(file.write)
        file.write(droppedLine(math.max(1L, queue.dropped)))
      } else backlog.foreach(file.write)
      file.flush()
      val path = PhoebeSettings.plain(file.path)
      logWarning(
        s"phoebe: no companion, $what; events go to $path, read them with: phoebe ingest $path"
      )
    } catch {
      case NonFatal(e) => turnOff(s"no companion, $what; and the spool cannot be written: $e")
    }
    backlog.clear()
    backlogLost = true
  }

  private def spooled(body: Spool => Unit): Unit =
    try body(spool)
    catch { case NonFatal(e) => turnOff(s"the spool file cannot be written: $e") }

  private def turnOff(why: String): Unit = if (offBecause.isEmpty) {
    offBecause = Some(why)
    queue.discard()
    logWarning(s"phoebe: harvesting is off, $why")
    if (ending) queue.end()
  }

  /** Why nothing can be written under home; only local disks are tried. */
  private def homeProblem(): Option[String] = {
    val home = settings.home
    if (home.toUri.getScheme != "file") None
    else {
      val dir = Paths.get(home.toUri.getPath)
      val usable = Try {
        Files.createDirectories(dir)
        Files.delete(Files.createTempFile(dir, ".phoebe", null))
      }
      usable.failed.toOption.map { e =>
        s"spark.phoebe.home=$dir cannot be written ($e); name a directory that can"
      }
    }
  }

  private def reportDropped(now: Boolean): Unit = {
    val total = queue.dropped
    if (total > droppedReported) {
      val at = System.nanoTime()
      if (now || at - droppedReportedAt > TimeUnit.SECONDS.toNanos(1)) {
        if (droppedReported == 0) {
          logWarning("phoebe: events were dropped, spark.phoebe.harvest.queue_capacity is too " +
            "small for this application; its run counts as incomplete")
        }
        droppedReported = total
        droppedReportedAt = at
        line(droppedLine(total))
      }
    }
  }

  private def droppedLine(total: Long): String =
    Json.line("type" -> "dropped", "events" -> total, "time" -> System.currentTimeMillis())

  private def hello(continued: Boolean): String = Json.line(
    "type" -> "hello",
    "protocol" -> Protocol,
    "plugin_version" -> PhoebeSettings.pluginVersion,
    "spark_version" -> SPARK_VERSION,
    "app_id" -> identity.appId,
    "app_attempt" -> identity.attempt,
    "app_name" -> identity.appName,
    "user" -> identity.user,
    "home" -> PhoebeSettings.plain(settings.home),
    "mode" -> settings.mode.name,
    "slots" -> identity.slots,
    "settings" -> settings.resolved,
    "continued" -> continued,
    "time" -> identity.startedAtMs
  )

  private def onMessage(message: JsonNode): Unit = message.get("type").asText match {
    case "ready" =>
      if (message.path("protocol").asInt(0) != Protocol) {
        fail(s"it speaks protocol ${message.path("protocol")}, not $Protocol: " +
          "jar and Python package are of different versions")
      } else {
        shapes = message.path("long_shapes").elements().asScala.map(_.asText).toSet
        model = Option(message.get("model_version")).filter(_.isTextual).map(_.asText)
        ready = true
      }
    case "advice" =>
      try {
        val advice = Advice.fromJson(message)
        Option(pending.remove(advice.requestId)).foreach(_.complete(advice))
      } catch { case e: IllegalArgumentException => fail(s"it answered ${e.getMessage}") }
    case "log" =>
      val text = s"phoebe: ${message.path("message").asText}"
      message.path("level").asText match {
        case "error" => logError(text)
        case "warning" => logWarning(text)
        case _ => logInfo(text)
      }
    case _ => // a later version's message
  }

  /** Ends a companion that neither reads nor says anything; the writer then spools. */
  private def watch(): Unit = while (!finished.await(1, TimeUnit.SECONDS)) {
    val waitedMs = (System.nanoTime() - startedAt) / 1000000L
    Option(process).filter(_ => failure.isEmpty).foreach { p =>
      if (!ready && waitedMs > ReadyMs) fail(s"it was not ready within ${ReadyMs / 1000} s")
      else if (p.blockedForMs > BlockedMs) fail(s"it read nothing for ${BlockedMs / 1000} s")
    }
  }

  private def isHeader(event: SparkListenerEvent): Boolean = event match {
    case _: SparkListenerApplicationStart | _: SparkListenerExecutorAdded => true
    case _ => false
  }

  private def daemon(name: String)(body: => Unit): Unit = {
    val thread = new Thread(() => FailSafe.run(name)(body), name)
    thread.setDaemon(true)
    thread.start()
  }
}

object Companion {
  private val Protocol = 1
  private val Busy = Reason("companion_busy", "the companion's queue is full")
  private val PollMs = 200L
  private val ReadyMs = 60000L
  private val BlockedMs = 30000L
  private val FinishMs = 10000L
  private val CloseGraceMs = 3000L
  private val MaxHeader = 1000
  private val MaxBacklogBytes = 16L << 20

  /** Who the application is, for `hello`. */
  final private[phoebe] case class Identity(
      appId: String,
      attempt: String,
      appName: String,
      user: String,
      slots: Int,
      startedAtMs: Long
  )
}
