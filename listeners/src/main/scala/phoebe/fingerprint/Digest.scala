/*
 * SHA-256 over framed strings, used for every hash of this package. Every part is preceded by its
 * length, so no two different lists of parts have the same bytes.
 */
package phoebe.fingerprint

import java.nio.ByteBuffer
import java.nio.charset.StandardCharsets.UTF_8
import java.security.MessageDigest

private[phoebe] final class Digest(tag: String) {
  private val sha = MessageDigest.getInstance("SHA-256")
  private val length = ByteBuffer.allocate(4)
  add(tag)

  def add(part: String): Digest = add(part.getBytes(UTF_8))

  def add(bytes: Array[Byte]): Digest = {
    length.clear()
    sha.update(length.putInt(bytes.length).array())
    sha.update(bytes)
    this
  }

  def add(value: Long): Digest = add(value.toString)

  /** The parts' count goes first: `addAll(a) addAll(b)` differs from `addAll(a ++ b)`. */
  def addAll(parts: Iterable[String]): Digest = {
    add(parts.size.toLong)
    parts.foreach(add)
    this
  }

  /** 64 hex digits; the digest cannot be used afterwards. */
  def hex(): String = {
    val bytes = sha.digest()
    val out = new Array[Char](bytes.length * 2)
    var i = 0
    while (i < bytes.length) {
      out(2 * i) = Character.forDigit((bytes(i) >> 4) & 0xf, 16)
      out(2 * i + 1) = Character.forDigit(bytes(i) & 0xf, 16)
      i += 1
    }
    new String(out)
  }
}

private[phoebe] object Digest {
  def of(tag: String, parts: String*): String = new Digest(tag).addAll(parts).hex()
}
