package phoebe.fingerprint

import java.lang.reflect.Modifier
import java.nio.file.{Files, Paths}
import java.util.jar.JarFile

import scala.jdk.CollectionConverters._
import scala.util.Using

import org.scalatest.funsuite.AnyFunSuite

import org.apache.spark.sql.catalyst.expressions.Expression
import org.apache.spark.sql.execution.SparkPlan
import org.apache.spark.sql.execution.datasources.FileFormat
import phoebe.planner.SupportChecks

/**
 * The allow-lists against the classes that this version of Spark has: a class that is new is in no
 * list, is refused at run time, and fails this test until someone has looked at it and has put it into
 * an allow-list or into `refused.txt`. The arguments of known operators are read in code, so a new
 * one could be overlooked: their signatures are pinned in `signatures.txt`.
 *
 * `known-operators.txt` of the jar names all operators, for `SupportChecks`. With `-Dphoebe.pin=<directory>` the
 * three files are written there anew.
 */
class AllowListSuite extends AnyFunSuite {
  private val loader = classOf[SparkPlan].getClassLoader

  private def jarOf(c: Class[_]): String = c.getProtectionDomain.getCodeSource.getLocation.getPath

  /** Every concrete class of Spark's catalyst and sql jars that is one of `kind`. */
  private def concrete(kind: Class[_]): Set[String] = {
    val jars = Seq(jarOf(classOf[Expression]), jarOf(classOf[SparkPlan]))
    jars.flatMap { jar =>
      Using.resource(new JarFile(jar)) { file =>
        file.entries.asScala.map(_.getName).filter(_.endsWith(".class"))
          .map(_.stripSuffix(".class").replace('/', '.')).toList
      }
    }.filter { name =>
      try {
        val c = Class.forName(name, false, loader)
        kind.isAssignableFrom(c) && !Modifier.isAbstract(c.getModifiers) && !c.isAnonymousClass
      } catch { case _: LinkageError | _: ClassNotFoundException => false }
    }.toSet
  }

  private val expressions = concrete(classOf[Expression])
  private val operators = concrete(classOf[SparkPlan])
  private val formats = concrete(classOf[FileFormat])
  private val all = expressions ++ operators ++ formats
  private val allowed =
    AllowList.expressions ++ AllowList.operators ++ AllowList.formats ++ ExpressionText.handled

  // Hive's are in a jar of their own.
  private val known = (operators ++ Seq("HiveScriptTransformationExec", "HiveTableScanExec")
    .map("org.apache.spark.sql.hive.execution." + _)).toSeq.sorted

  private def signature(name: String): String = {
    val arguments =
      Class.forName(name, false, loader).getConstructors.map(_.getGenericParameterTypes)
        .maxBy(_.length).map(_.getTypeName).mkString(", ")
    s"$name($arguments)"
  }
  private val signatures =
    (AllowList.operators ++ ExpressionText.handled).toSeq.sorted.map(signature)

  sys.props.get("phoebe.pin").foreach { directory =>
    def write(name: String, about: String, lines: Seq[String]): Unit = {
      Files.write(Paths.get(directory, name), (s"# $about" +: lines).asJava)
      ()
    }
    write(
      "refused.txt",
      "Classes of Spark 4.2.0 that the fingerprint refuses.",
      (all -- allowed).toSeq.sorted
    )
    write("known-operators.txt", "All physical operators of Spark 4.2.0.", known)
    write("signatures.txt", "What is read in code, with its arguments in Spark 4.2.0.", signatures)
  }

  test("Spark's classes are found") {
    assert(expressions.size > 400 && operators.size > 100 && formats.size > 5)
  }

  test("every class of this Spark is either allowed or refused on purpose") {
    val refused = AllowList.lines("refused.txt").toSet
    assert((all -- allowed -- refused).toSeq.sorted == Nil, "are new: nobody has looked at them")
    assert((refused -- all).toSeq.sorted == Nil, "are gone from Spark")
    assert((refused & allowed).toSeq.sorted == Nil, "are in both lists")
  }

  test("every allowed class exists, and is of its kind") {
    assert((AllowList.expressions ++ ExpressionText.handled -- expressions).toSeq.sorted == Nil)
    assert((AllowList.operators -- operators).toSeq.sorted == Nil)
    // Avro's and Hive's are in jars of their own.
    val elsewhere =
      Set("org.apache.spark.sql.avro.AvroFileFormat", "org.apache.spark.sql.hive.orc.OrcFileFormat")
    assert((AllowList.formats -- formats -- elsewhere).toSeq.sorted == Nil)
  }

  test("all operators are known as Spark's") {
    assert(SupportChecks.Operators.toSeq.sorted == known)
  }

  test("the arguments of what is read in code are those that were looked at") {
    assert(signatures == AllowList.lines("signatures.txt"))
  }

  test("what no list can allow is not allowed") {
    val loaded = AllowList.expressions.toSeq.map(Class.forName(_, false, loader))
    val never = Seq(
      "org.apache.spark.sql.catalyst.expressions.Nondeterministic",
      "org.apache.spark.sql.catalyst.expressions.UserDefinedExpression",
      "org.apache.spark.sql.catalyst.expressions.RuntimeReplaceable"
    ).map(Class.forName(_, false, loader))
    val found = for (c <- loaded; n <- never if n.isAssignableFrom(c)) yield s"$c is a $n"
    assert(found == Nil)
  }
}
