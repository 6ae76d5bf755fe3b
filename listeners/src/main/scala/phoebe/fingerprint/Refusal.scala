/*
 * Typed reasons why an exchange has no fingerprint. Codes are stable; `phoebe explain`, logs and
 * tests read them. Whatever is not on an allow-list is refused; nothing is guessed.
 */
package phoebe.fingerprint

import scala.util.control.NoStackTrace

/** Why an exchange has no fingerprint: a stable code, the figures of the sentence, the sentence. */
final case class Refusal(code: String, args: Map[String, Any], message: String)

/** Carries a refusal out of a recursion; never leaves [[Fingerprinter]]. */
private[fingerprint] final class Refused(val refusal: Refusal)
    extends RuntimeException(refusal.message) with NoStackTrace

private[fingerprint] object Refused {

  def operator(name: String): Nothing = refuse(
    "unknown_operator",
    Map("operator" -> name),
    s"Operator $name is not on the allow-list."
  )

  def expression(name: String): Nothing = refuse(
    "unknown_expression",
    Map("expression" -> name),
    s"Expression $name is not on the allow-list."
  )

  def nondeterministic(expression: String): Nothing = refuse(
    "nondeterministic",
    Map("expression" -> expression),
    s"$expression gives other values on another run."
  )

  def orderSensitive(function: String): Nothing = refuse(
    "order_sensitive_aggregate",
    Map("function" -> function),
    s"The result of $function depends on the order of its input rows."
  )

  def udf(name: String): Nothing = refuse(
    "udf",
    Map("name" -> name),
    s"$name runs user code, whose identity is not known."
  )

  def value(owner: String, found: String): Nothing = refuse(
    "unknown_value",
    Map("expression" -> owner, "class" -> found),
    s"$owner holds a value of class $found, which has no stable identity."
  )

  def attribute(name: String, operator: String): Nothing = refuse(
    "unresolved_attribute",
    Map("attribute" -> name, "operator" -> operator),
    s"Column $name of $operator could not be traced to its origin."
  )

  def source(code: String, name: String, why: String): Nothing = refuse(
    code,
    Map("source" -> name),
    s"Source $name: $why."
  )

  def metadataColumn(name: String): Nothing = refuse(
    metadataColumnCode,
    Map("column" -> name),
    s"Metadata column $name depends on how files are split."
  )

  val metadataColumnCode = "file_metadata_column"

  def refuse(code: String, args: Map[String, Any], message: String): Nothing =
    throw new Refused(Refusal(code, args, message))
}
