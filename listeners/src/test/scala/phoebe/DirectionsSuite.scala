package phoebe

import com.tngtech.archunit.ArchConfiguration
import com.tngtech.archunit.base.DescribedPredicate
import com.tngtech.archunit.core.domain.{JavaAccess, JavaClass, JavaClasses}
import com.tngtech.archunit.core.importer.ClassFileImporter
import com.tngtech.archunit.lang.ArchRule
import com.tngtech.archunit.lang.syntax.ArchRuleDefinition.noClasses
import org.scalatest.funsuite.AnyFunSuite

/**
 * Which room may know which, and that one room alone knows which Spark it is built with. A room's
 * classes lie in `phoebe.<room>`, or in `org.apache.spark.sql.execution.phoebe.<room>` where they need
 * members that Spark keeps to itself. (`Json`, `Reason` and `FailSafe` have no room: all may use them.)
 */
class DirectionsSuite extends AnyFunSuite {
  import DirectionsSuite._

  private def check(rule: ArchRule): Unit = {
    val found = rule.evaluate(classes)
    assert(!found.hasViolation, found.getFailureReport)
  }

  private def knowsNot(from: DescribedPredicate[JavaClass], rooms: Iterable[String]): Unit =
    check(noClasses().that(from).should().dependOnClassesThat()
      .resideInAnyPackage(rooms.map(in).toSeq: _*))

  MayKnow.foreach { case (room, known) =>
    test(s"$room knows ${if (known.isEmpty) "no other room" else known.mkString(", ")}") {
      val others = MayKnow.keySet - room -- known
      knowsNot(JavaClass.Predicates.resideInAPackage(in(room)), others)
    }
  }

  test("every class has a room that is known here, or is an entrance or a word for all") {
    val packages = classes.iterator
    val strangers = scala.collection.mutable.Set.empty[String]
    packages.forEachRemaining { c =>
      val known = Common(c.getName.takeWhile(_ != '$')) || c.getPackageName.startsWith(Scheduler) ||
        MayKnow.keys.exists(room => c.getPackageName.endsWith(s"phoebe.$room"))
      if (!known) strangers += c.getName
    }
    assert(strangers.isEmpty)
  }

  test("the words for all know no room") {
    val words = new DescribedPredicate[JavaClass]("words for all") {
      override def test(c: JavaClass): Boolean = Words(c.getName.takeWhile(_ != '$'))
    }
    knowsNot(words, MayKnow.keys)
  }

  test("what reaches into Spark's scheduler knows nothing of checkpoints") {
    knowsNot(JavaClass.Predicates.resideInAPackage(s"$Scheduler.."), MayKnow.keySet - "compat")
  }

  test("only compat knows what differs between versions of Spark") {
    val differs = new DescribedPredicate[JavaAccess[_]]("a member that differs between versions") {
      override def test(access: JavaAccess[_]): Boolean = {
        val owner = access.getTargetOwner.getName
        !owner.contains(".phoebe.compat.") &&
        (Members(access.getName) ||
          owner == "org.apache.spark.ShuffleDependency" && access.getName == "<init>")
      }
    }
    check(noClasses().that().resideOutsideOfPackage("..phoebe.compat..")
      .should().accessTargetWhere(differs))
    val kinds = new DescribedPredicate[JavaClass]("a class that differs between versions") {
      override def test(c: JavaClass): Boolean = Kinds(c.getName.takeWhile(_ != '$'))
    }
    check(noClasses().that().resideOutsideOfPackage("..phoebe.compat..")
      .should().dependOnClassesThat(kinds))
  }
}

object DirectionsSuite {
  private val MayKnow: Map[String, Set[String]] = Map(
    "compat" -> Set(),
    "files" -> Set("compat"),
    "store" -> Set("compat", "files"),
    "settings" -> Set("store"),
    "fingerprint" -> Set("compat"),
    "harvest" -> Set("compat", "files", "settings"),
    "rpc" -> Set("store"),
    "executor" -> Set("compat", "files", "rpc", "settings", "store"),
    "tool" -> Set("compat", "files", "settings", "store"),
    // The driver's side: plan nodes begin checkpoints, and what becomes of these is read off the nodes.
    "exchange" ->
      Set(
        "compat",
        "driver",
        "executor",
        "files",
        "fingerprint",
        "rpc",
        "settings",
        "store"
      ),
    "driver" -> Set(
      "compat",
      "exchange",
      "files",
      "fingerprint",
      "plugin",
      "rpc",
      "settings",
      "store"
    ),
    "planner" ->
      Set("compat", "driver", "exchange", "fingerprint", "harvest", "plugin", "settings", "store"),
    "plugin" -> Set("compat", "driver", "executor", "harvest", "planner", "settings")
  )

  private val Scheduler = "org.apache.spark.scheduler.phoebe"
  private val Words = Set("Json", "JsonTree", "Reason", "FailSafe").map("phoebe." + _)
  private val Common = Words ++
    Set("PhoebePlugin", "PhoebeExtensions", "LogFiles", "LogFilesRDD", "LogFilesPartition")
      .map("phoebe." + _)

  /** By the compiler's errors against 4.0 and 4.1. */
  private val Members = Set(
    "activeQueryToJobs",
    "captureThreadLocals",
    "checksumMismatchFullRetryEnabled",
    "checksumMismatchIndices",
    "checksumMismatchQueryLevelRollbackEnabled",
    "collectFirstWithSubqueries",
    "evalContext",
    "markAsRollingBack",
    "maxAttemptIdToIgnore",
    "rddScopeId",
    "rollbackSucceedingStagesForQuery",
    "rowBasedChecksums",
    "shuffleChecksumMismatchFullRetryEnabled",
    "shuffleChecksumMismatchQueryLevelRollbackEnabled",
    "shuffleOrderIndependentChecksumEnabled"
  )
  private val Kinds = Set(
    "org.apache.spark.sql.catalyst.expressions.NumericEvalContext",
    "org.apache.spark.sql.catalyst.expressions.UnsafeRowChecksum",
    "org.apache.spark.sql.execution.OneRowRelationExec",
    "org.apache.spark.sql.execution.SQLExecutionThreadLocalCaptured",
    "org.apache.spark.sql.execution.streaming.runtime.StreamExecution"
  )

  private def in(room: String) = s"..phoebe.$room.."

  /** The product's own classes; Spark's are known by their names. */
  private lazy val classes: JavaClasses = {
    ArchConfiguration.get().setResolveMissingDependenciesFromClassPath(false)
    val compiled = classOf[PhoebePlugin].getProtectionDomain.getCodeSource.getLocation
    new ClassFileImporter().importUrl(compiled)
  }
}
