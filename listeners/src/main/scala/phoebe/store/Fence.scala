package phoebe.store

import java.io.IOException
import java.nio.charset.StandardCharsets.UTF_8

import scala.jdk.CollectionConverters._
import scala.util.Try

import phoebe.Json

/** This application's lease has expired: to others it has ended. */
private[phoebe] final class LeaseLostException(message: String) extends IOException(message)

/**
 * Excludes an application with an expired lease from a store. Created by the first application that
 * finds the owner's lease expired, and never changed. Later commits of the owner are ignored, even if
 * its process was suspended right before a commit and goes on after years. So one file decides for
 * all applications which checkpoints of the owner are committed.
 *
 * @param by
 *   the owner that created it
 * @param kept
 *   the stems of the checkpoints that its owner had committed when the fence was prepared
 */
private[phoebe] final case class Fence(owner: String, by: String, kept: Set[String]) {
  def encode: Array[Byte] =
    Json.line("owner" -> owner, "by" -> by, "kept" -> kept.toSeq.sorted).getBytes(UTF_8)
}

private[phoebe] object Fence {

  /** None if the bytes are no fence. Then no checkpoint of its owner is valid. */
  def decode(bytes: Array[Byte]): Option[Fence] = Try {
    val node = Json.read(new String(bytes, UTF_8))
    Fence(
      node.get("owner").asText,
      node.get("by").asText,
      node.get("kept").elements().asScala.map(_.asText).toSet
    )
  }.toOption
}
