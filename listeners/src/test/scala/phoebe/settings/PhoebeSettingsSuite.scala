package phoebe.settings

import org.scalatest.funsuite.AnyFunSuite

import org.apache.spark.SparkConf
import org.apache.spark.sql.internal.SQLConf
import phoebe.compat.SparkBuild

class PhoebeSettingsSuite extends AnyFunSuite {
  private def conf(values: (String, String)*): SparkConf =
    values.foldLeft(new SparkConf(false)) { case (c, (name, value)) =>
      c.set(if (name.startsWith("spark.")) name else s"spark.phoebe.$name", value)
    }

  private def settings(values: (String, String)*): PhoebeSettings =
    PhoebeSettings.read(conf(values: _*)).fold(problem => fail(problem), identity)

  private def problem(values: (String, String)*): String =
    PhoebeSettings.read(conf(values: _*)).left.getOrElse(fail("was accepted"))

  test("defaults come from the declarations") {
    val defaults = settings()
    assert(defaults.mode == Mode.Observe)
    assert(defaults.adviceTimeoutMs == 500)
    assert(defaults.minDurationMs == 60000)
    assert(defaults.force == Force.None)
    assert(defaults.home.toUri.getPath == s"${System.getProperty("user.home")}/.phoebe")
    assert(defaults.checkpointDir.toUri.getPath == s"${defaults.home.toUri.getPath}/checkpoints")
  }

  test("paths without a scheme are local and absolute, others stay") {
    assert(settings("home" -> "/a b/c").home.toUri.getPath == "/a b/c")
    assert(settings("home" -> "/a b/c").home.toUri.getScheme == "file")
    assert(settings("home" -> "rel").home.toUri.getPath == s"${System.getProperty("user.dir")}/rel")
    assert(settings("checkpoint.dir" -> "s3a://b/c").checkpointDir.toString == "s3a://b/c")
    assert(settings("home" -> "/a b/c").resolved("spark.phoebe.home") == "/a b/c")
  }

  test("a bad value names the setting and what it accepts") {
    assert(problem("mode" -> "aply") ==
      "spark.phoebe.mode='aply': accepts one of off, observe, advise, apply")
    assert(problem("max_cuts" -> "0").endsWith("accepts a whole number from 1 to 16"))
    assert(problem("budget_fraction" -> "NaN").contains("spark.phoebe.budget_fraction"))
    assert(problem("force" -> "e1,,e2").contains("spark.phoebe.force"))
    assert(problem("advice.timeout_ms" -> "0.5s").contains("spark.phoebe.advice.timeout_ms"))
  }

  test("keys that no setting declares are found") {
    val keys =
      PhoebeSettings.unknownKeys(conf("hme" -> "/x", "home" -> "/x", "spark.app.name" -> "x"))
    assert(keys == Seq("spark.phoebe.hme"))
  }

  test("a session's own values hold for its queries, where they may") {
    val base = settings("max_cuts" -> "2")
    val session = new SQLConf
    session.setConfString("spark.phoebe.mode", "apply")
    session.setConfString("spark.phoebe.max_cuts", "9") // not per query
    session.setConfString("spark.phoebe.force", "e1, f00d")
    val query = base.forQuery(session).getOrElse(fail("refused"))
    assert(query.mode == Mode.Apply)
    assert(query.values("max_cuts") == "2")
    assert(query.force.names(None, "e1"))
    assert(query.force.names(Some("f00d"), "e7"))
    assert(!query.force.names(Some("beef"), "e7"))
    session.setConfString("spark.phoebe.mode", "on")
    assert(base.forQuery(session).left.exists(_.contains("spark.phoebe.mode='on'")))
    assert(base.forQuery(new SQLConf).exists(_ eq base))
  }

  test("the companion's Python is the driver's, never a notebook front end") {
    def python(env: Map[String, String], values: (String, String)*) =
      PhoebeSettings.pythonOf(conf(values: _*), env)
    val env = Map("PYSPARK_DRIVER_PYTHON" -> "/opt/bin/jupyter", "PYSPARK_PYTHON" -> "/opt/python")
    assert(python(env) == "/opt/python")
    assert(python(
      env,
      "spark.pyspark.python" -> "p2",
      "spark.pyspark.driver.python" -> "p1"
    ) == "p1")
    assert(python(Map.empty) == "python3")
  }

  test("only the known build may apply") {
    def reason(build: SparkBuild, env: Map[String, String] = Map.empty) =
      build.unknown(env)
    val here = SparkBuild.here
    assert(reason(here).isEmpty, "of Maven; PyPI's and the tarball are of the same commit")
    assert(here.jars.nonEmpty)
    val later = here.copy(version = "4.2.13", revision = "0" * 40, jars = Nil)
    assert(reason(later).isEmpty)
    Seq(
      here.copy(version = "4.2.0-amzn-1"),
      here.copy(version = "4.2.0.1"),
      here.copy(version = "4.3.0"),
      here.copy(version = "4.20.0"),
      here.copy(version = "3.5.4"),
      // Vendors' builds with a plain version.
      here.copy(revision = "0" * 40),
      here.copy(revision = ""),
      later.copy(repository = "https://example.com/fork/spark"),
      here.copy(jars = here.jars :+ ("Example Inc." -> "4.2.0")),
      here.copy(jars = here.jars :+ ("Apache Software Foundation" -> "4.2.0-patched"))
    ).foreach(build => assert(reason(build).isDefined, build))
    assert(reason(here, Map("DATABRICKS_RUNTIME_VERSION" -> "18.0")).nonEmpty)
    assert(Mode.Apply.atMost(Mode.Observe) == Mode.Observe)
    assert(Mode.Off.atMost(Mode.Observe) == Mode.Off)
  }
}
