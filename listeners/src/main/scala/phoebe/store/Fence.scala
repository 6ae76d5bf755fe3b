package phoebe.store

import java.io.IOException
import java.nio.charset.StandardCharsets.UTF_8

import scala.jdk.CollectionConverters._
import scala.util.Try

import phoebe.Json

/** This application was away for longer than its lease: others count it for dead. */
private[phoebe] final class LeaseLostException(message: String) extends IOException(message)

/**
 * Shuts an application out of a store whose lease has run out: what it commits from then on is not
 * believed. Created by the first one that counts it for dead, if nobody has done so before, and never
 * changed: this one step decides for everybody which of its checkpoints are committed. A process that
 * was stopped and goes on after years cannot add to them, however near to a commit it was stopped.
 *
 * @param by
 *   who created it
 * @param kept
 *   the stems of what its owner had committed when the fence was made ready
 */
private[phoebe] final case class Fence(owner: String, by: String, kept: Set[String]) {
  def encode: Array[Byte] =
    Json.line("owner" -> owner, "by" -> by, "kept" -> kept.toSeq.sorted).getBytes(UTF_8)
}

private[phoebe] object Fence {

  /** None: it is not one; then nothing of its owner's is believed. */
  def decode(bytes: Array[Byte]): Option[Fence] = Try {
    val node = Json.read(new String(bytes, UTF_8))
    Fence(
      node.get("owner").asText,
      node.get("by").asText,
      node.get("kept").elements().asScala.map(_.asText).toSet
    )
  }.toOption
}
