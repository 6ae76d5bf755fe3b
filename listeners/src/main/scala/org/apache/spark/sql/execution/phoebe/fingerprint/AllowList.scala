/*
 * The reviewed lists: which operators, expressions and file formats are understood, and which
 * settings cannot change a result. They are resource files, so that a review reads a list and not
 * code; `docs/fingerprint.md` says how they were made.
 */
package org.apache.spark.sql.execution.phoebe.fingerprint

import scala.io.{Codec, Source}

private[fingerprint] object AllowList {
  private val base = "/phoebe/fingerprint/"

  /** Non-empty lines of a resource, without comments (`#` to the end of the line). */
  private def lines(name: String): Seq[String] = {
    val stream = getClass.getResourceAsStream(base + name)
    require(stream != null, s"the jar has no $base$name")
    val source = Source.fromInputStream(stream)(Codec.UTF8)
    try source.getLines().map(_.takeWhile(_ != '#').trim).filter(_.nonEmpty).toList
    finally source.close()
  }

  val operators: Set[String] = lines("operators.txt").toSet
  val expressions: Set[String] = lines("expressions.txt").toSet
  val formats: Set[String] = lines("formats.txt").toSet

  private val (prefixes, exact) = lines("neutral-settings.txt").partition(_.endsWith("*"))
  private val neutralPrefixes = prefixes.map(_.dropRight(1))
  private val neutralExact = exact.toSet

  /** Whether a setting cannot change the rows of a shuffle. */
  def isNeutral(setting: String): Boolean =
    neutralExact(setting) || neutralPrefixes.exists(setting.startsWith)
}
