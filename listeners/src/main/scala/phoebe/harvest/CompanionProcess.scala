package phoebe.harvest

import java.io.{BufferedOutputStream, BufferedReader, IOException, InputStreamReader}
import java.nio.charset.StandardCharsets.UTF_8
import java.util.concurrent.TimeUnit

import com.fasterxml.jackson.databind.JsonNode

import org.apache.spark.internal.Logging
import phoebe.{FailSafe, Json}

/**
 * A running `python -m phoebe_spark.companion` and the threads that read its output.
 *
 * `onMessage` gets each line of its standard output as JSON, on the reader's thread; `onFailure`
 * is called at most once, with what went wrong: it ended by itself, or wrote something that is not
 * the protocol. Its standard error goes to the driver's log.
 */
final private[phoebe] class CompanionProcess private (
    process: Process,
    onMessage: JsonNode => Unit,
    onFailure: String => Unit
) extends Logging {
  private val in = new BufferedOutputStream(process.getOutputStream, 1 << 16)
  @volatile private var lastError = ""
  @volatile private var closing = false
  @volatile private var writingSince = 0L

  private def start(): this.type = {
    daemon("phoebe-companion-stderr")(readErrors())
    daemon("phoebe-companion-stdout")(readMessages())
    this
  }

  /** Throws `IOException` when the companion is gone. Called by one thread only. */
  def write(line: String): Unit = timed {
    in.write(line.getBytes(UTF_8))
    in.write('\n')
  }

  def flush(): Unit = timed(in.flush())

  /** How long, in milliseconds, the current write has been waiting for the companion to read. */
  def blockedForMs: Long = {
    val since = writingSince
    if (since == 0L) 0L else (System.nanoTime() - since) / 1000000L
  }

  /** Ends its input; true if it ended within `timeoutMs`. */
  def finish(timeoutMs: Long): Boolean = {
    closing = true
    in.close()
    process.waitFor(timeoutMs, TimeUnit.MILLISECONDS)
  }

  def kill(): Unit = {
    closing = true
    process.destroyForcibly()
  }

  private def timed(body: => Unit): Unit = {
    writingSince = System.nanoTime()
    try body
    finally writingSince = 0L
  }

  private def readErrors(): Unit = {
    val reader = new BufferedReader(new InputStreamReader(process.getErrorStream, UTF_8))
    var line = CompanionProcess.readLine(reader)
    while (line != null) {
      if (line.trim.nonEmpty) lastError = line.trim
      logInfo(s"phoebe companion: $line")
      line = CompanionProcess.readLine(reader)
    }
  }

  private def readMessages(): Unit = {
    val reader = new BufferedReader(new InputStreamReader(process.getInputStream, UTF_8))
    var line = CompanionProcess.readLine(reader)
    var failed = false
    while (line != null && !failed) {
      val text = line
      failed = !FailSafe("companion output", false) {
        val message =
          try Json.read(text)
          catch { case _: java.io.IOException => null }
        val isMessage = message != null && message.isObject && message.path("type").isTextual
        if (isMessage) onMessage(message)
        isMessage
      }
      if (failed) fail(s"it answered with something else than the protocol: ${text.take(80)}")
      else line = CompanionProcess.readLine(reader)
    }
    if (!failed) fail(lastWords())
  }

  /** How it ended; waits a moment, as its pipes break before it is gone. */
  def lastWords(): String = {
    val ended = process.waitFor(5, TimeUnit.SECONDS)
    Thread.sleep(100) // lets the other reader take what it said last
    val code = if (ended) s"ended with exit code ${process.exitValue()}" else "closed its pipe"
    s"it $code" + (if (lastError.isEmpty) "" else s": ${lastError.take(300)}")
  }

  private def fail(what: String): Unit = if (!closing) {
    closing = true
    onFailure(what)
  }

  private def daemon(name: String)(body: => Unit): Unit = {
    val thread = new Thread(() => FailSafe.run(name)(body), name)
    thread.setDaemon(true)
    thread.start()
  }
}

private[phoebe] object CompanionProcess {
  private val MaxLine = 32 << 20

  private val Memory = Map(
    "MALLOC_ARENA_MAX" -> "1",
    "MALLOC_MMAP_THRESHOLD_" -> "100000",
    "MALLOC_TRIM_THRESHOLD_" -> "100000"
  )

  /** Throws `IOException` when the program cannot be started. */
  def start(
      python: String,
      environment: Map[String, String],
      onMessage: JsonNode => Unit,
      onFailure: String => Unit
  ): CompanionProcess = {
    val builder = new ProcessBuilder(python, "-m", "phoebe_spark.companion")
    // A module of the user's working directory must not stand in for one of the library.
    builder.environment().put("PYTHONSAFEPATH", "1")
    // glibc would keep what the companion's threads have freed, each its own.
    Memory.foreach { case (name, value) => builder.environment().putIfAbsent(name, value) }
    environment.foreach { case (name, value) => builder.environment().put(name, value) }
    new CompanionProcess(builder.start(), onMessage, onFailure).start()
  }

  /**
   * Like `BufferedReader.readLine`, for a writer that may never end its line. The streams of a
   * process that was killed are closed under the reader: that is their end.
   */
  private def readLine(reader: BufferedReader): String = {
    def next(): Int =
      try reader.read()
      catch { case _: IOException => -1 }
    val line = new java.lang.StringBuilder
    var c = next()
    while (c != -1 && c != '\n' && line.length < MaxLine) {
      line.append(c.toChar)
      c = next()
    }
    if (c == -1 && line.length == 0) null else line.toString
  }
}
