/*
 * The reviewed lists: the known operators, expressions and file formats, and the settings that cannot
 * change a result. They are resource files, so that a review reads lists and not code.
 * `docs/fingerprint.md` says how they were made.
 */
package phoebe.fingerprint

import scala.io.{Codec, Source}

import org.apache.spark.sql.execution.phoebe.compat.SparkVersion

private[phoebe] object AllowList {

  /** Non-empty lines of a list for this Spark, without comments (`#` to the end of the line). */
  def lines(name: String): Seq[String] = {
    val resource = SparkVersion.Lists + name
    val stream = getClass.getResourceAsStream(resource)
    require(stream != null, s"the jar has no $resource")
    val source = Source.fromInputStream(stream)(Codec.UTF8)
    try source.getLines().map(_.takeWhile(_ != '#').trim).filter(_.nonEmpty).toList
    finally source.close()
  }

  private val listed =
    Seq("operators.txt", "expressions.txt", "formats.txt", "neutral-settings.txt")
      .map(lines)
  private val Seq(operatorNames, expressionNames, formatNames, settings) = listed

  val operators: Set[String] = operatorNames.toSet
  val expressions: Set[String] = expressionNames.toSet
  val formats: Set[String] = formatNames.toSet

  /** A hash of the lists. Checkpoints of other lists are not found: they may be why the lists changed. */
  val version: String = versionOf(listed)

  def versionOf(lists: Seq[Seq[String]]): String = {
    val digest = new Digest("lists")
    lists.foreach(digest.addAll(_))
    digest.hex().take(12)
  }

  private val (prefixes, exact) = settings.partition(_.endsWith("*"))
  private val neutralPrefixes = prefixes.map(_.dropRight(1))
  private val neutralExact = exact.toSet

  /** Whether a setting cannot change the rows of a shuffle. */
  def isNeutral(setting: String): Boolean =
    neutralExact(setting) || neutralPrefixes.exists(setting.startsWith)
}
