package phoebe.fingerprint

import java.util.{Locale, TimeZone}

import org.apache.hadoop.conf.Configuration
import org.scalatest.funsuite.AnyFunSuite

import org.apache.spark.SparkConf
import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.expressions.variant.VariantGet
import org.apache.spark.sql.internal.SQLConf
import org.apache.spark.sql.types._
import phoebe.fingerprint.ExpressionText.Env

/** What no plan shows: the date, the JVM, Hadoop's settings, what a type's text leaves out. */
class SurroundingsSuite extends AnyFunSuite {
  private val column = AttributeReference("s", StringType)()
  private val env = Env(Map(column.exprId -> "s"))

  private def text(e: Expression, today: String = "2026-11-21"): String =
    new ExpressionText(_ => "", _ => "", _ => today).text(e, env)

  private def parts(core: SparkConf = new SparkConf(false)): Map[String, String] =
    Settings.parts(new SQLConf, core, Map.empty).toMap

  test("a string that may be a mere time of day is read with the date of the day") {
    def countsDate(e: Expression) = text(e) != text(e, today = "2026-11-22")
    val zone = Some("UTC")
    assert(countsDate(Cast(column, TimestampType, zone)))
    assert(countsDate(Cast(CreateArray(Seq(column)), ArrayType(TimestampType), zone)))
    val withTime = new StructType().add("at", TimestampType)
    assert(countsDate(JsonToStructs(withTime, Map.empty, column, zone)))
    assert(!countsDate(JsonToStructs(new StructType().add("n", LongType), Map.empty, column, zone)))
    val tokyo = JsonToStructs(withTime, Map("timezone" -> "Asia/Tokyo"), column, zone)
    assert(ExpressionText.clock(tokyo).contains("Asia/Tokyo"))
    val variant = AttributeReference("s", VariantType)(column.exprId)
    assert(countsDate(VariantGet(
      variant,
      Literal("$.at"),
      TimestampType,
      failOnError = false,
      zone
    )))
    assert(!countsDate(VariantGet(variant, Literal("$.n"), LongType, failOnError = false, zone)))
    assert(!countsDate(Cast(column, TimestampNTZType, zone)))
    assert(!countsDate(Cast(column, DateType, zone)))
    assert(!countsDate(Cast(Cast(column, DateType, zone), TimestampType, zone)))
  }

  test("a default value in the schema that a string is parsed with counts") {
    def parsed(default: String) = {
      val metadata = new MetadataBuilder().putString("EXISTS_DEFAULT", default).build()
      val schema = new StructType().add("c", IntegerType, nullable = true, metadata)
      text(JsonToStructs(schema, Map.empty, column, Some("UTC")))
    }
    assert(parsed("1") != parsed("2"))
    assert(parsed("1") == parsed("1"))
  }

  test("the JVM's time zone and locale count, and the executors' where they are others") {
    val before = parts()
    val (zone, locale) = (TimeZone.getDefault, Locale.getDefault)
    try {
      TimeZone.setDefault(TimeZone.getTimeZone("Pacific/Apia"))
      assert(parts() != before)
      TimeZone.setDefault(zone)
      Locale.setDefault(Locale.forLanguageTag("tr-TR"))
      assert(parts() != before)
    } finally {
      TimeZone.setDefault(zone)
      Locale.setDefault(locale)
    }
    val options = "-XX:+UseG1GC -Duser.timezone=UTC -Xss2m"
    val other = parts(new SparkConf(false).set("spark.executor.extraJavaOptions", options))
    assert(other.toSet -- before.toSet == Set("user.timezone" -> "UTC"))
    val environment = new SparkConf(false).setExecutorEnv("TZ", "UTC").setExecutorEnv("HOME", "/")
    assert(parts(environment).toSet -- before.toSet == Set("TZ" -> "UTC"))
  }

  test("the versions of what computes count: tables of time zones, collations, a vendor's build") {
    val versions = Seq("spark", "spark_build", "hadoop", "java", "tzdata", "icu").map(parts())
    assert(versions.forall(_.nonEmpty))
    assert(parts()("tzdata").matches("\\d{4}[a-z]+"))
    val executors = "-Djava.locale.providers=COMPAT -Dother=x"
    val other = parts(new SparkConf(false).set("spark.executor.extraJavaOptions", executors))
    assert(other.toSet -- parts().toSet == Set("java.locale.providers" -> "COMPAT"))
  }

  test("what was named under other lists is not found again") {
    assert(parts()("fingerprint").endsWith(AllowList.version))
    val versions = Seq(Seq(Seq("a", "b"), Nil), Seq(Seq("a"), Seq("b")), Seq(Seq("a"), Nil))
    assert(versions.map(AllowList.versionOf).distinct.size == 3)
  }

  test("what a session sets counts before what Hadoop's settings say") {
    val key = "orc.force.positional.evolution"
    def named(session: String): Map[String, String] = {
      val sql = new SQLConf
      sql.setConfString(key, session)
      Settings.parts(sql, new SparkConf(false), Map(key -> "false")).toMap
    }
    assert(named("true")(key) == "true" && named("false")(key) == "false")
  }

  test("the zone and locale of the process count as they are when a query is planned") {
    val sql = new SQLConf
    val core = new SparkConf(false)
    val (zone, locale) = (TimeZone.getDefault, Locale.getDefault)
    def hash(): String = Settings.of(sql, core, Map.empty).hash
    val before = hash()
    try {
      TimeZone.setDefault(TimeZone.getTimeZone("Asia/Kathmandu"))
      val elsewhere = hash()
      Locale.setDefault(Locale.forLanguageTag("tr-TR"))
      assert(Set(before, elsewhere, hash()).size == 3)
    } finally {
      TimeZone.setDefault(zone)
      Locale.setDefault(locale)
    }
    assert(hash() == before)
  }

  test("Hadoop's settings of readers count wherever they were set, its defaults do not") {
    val hadoop = new Configuration()
    val before = Settings.ofReaders(hadoop)
    assert(hadoop.get("io.compression.codec.bzip2.library") != null)
    assert(!before.contains("io.compression.codec.bzip2.library"))
    hadoop.set("orc.force.positional.evolution", "true")
    hadoop.set("hive.exec.orc.skip.corrupt.data", "true")
    hadoop.set("fs.defaultFS", "file:///")
    hadoop.set("parquet.encryption.key.access.token", "of today")
    assert(
      Settings.ofReaders(hadoop) == before ++
        Seq("orc.force.positional.evolution", "hive.exec.orc.skip.corrupt.data").map(_ -> "true")
    )
  }
}
