package phoebe.compat

import org.apache.spark.{SPARK_REPO_URL, SPARK_REVISION, SPARK_VERSION, SparkContext}
import org.apache.spark.sql.catalyst.plans.logical.LogicalPlan
import org.apache.spark.sql.execution.SparkPlan

/**
 * The origin of the running Spark. This code depends on the internals of Apache's Spark 4.2, and a
 * vendor's build may have other internals under the same version.
 *
 * @param revision
 *   the commit that it was built from, as its build has noted
 * @param repository
 *   the URL of the repository that it was built in
 * @param jars
 *   vendor and version of Spark's jars, where their manifests say them
 */
final case class SparkBuild(
    version: String,
    revision: String,
    repository: String,
    jars: Seq[(String, String)]
) {
  import SparkBuild._

  /** Why this build is not supported; None if it is. */
  def unknown(env: Map[String, String]): Option[String] = {
    val foreign = jars.collectFirst {
      case (vendor, _) if !vendor.contains(Apache) => s"a jar of this Spark is by $vendor"
      case (_, found) if found != version => s"a jar of this Spark $version is of version $found"
    }
    version match {
      case _ if env.contains("DATABRICKS_RUNTIME_VERSION") =>
        Some(s"Databricks Runtime ${env("DATABRICKS_RUNTIME_VERSION")} has a Spark of its own")
      case Known() if foreign.isDefined => Some(foreign.get)
      case Known() if Releases.get(version).exists(_ != revision) =>
        Some(
          s"this Spark $version was built from $revision, not from the commit of Apache's release"
        )
      case Known() if !Releases.contains(version) && !Repositories(repository) =>
        Some(s"this Spark $version was built from $repository, not from Apache's repository")
      case Known() => None
      case _ => Some(s"Spark $version is not a build that is known here (4.2.x)")
    }
  }
}

object SparkBuild {
  private val Known = """4\.2\.\d+""".r
  private val Apache = "Apache Software Foundation"

  /** Apache's releases so far, by the commit of their tag. */
  private val Releases = Map("4.2.0" -> "32f7299601108917fb01920a54e084595b7b3bf8")
  private val Repositories =
    Set("https://github.com/apache/spark", "https://gitbox.apache.org/repos/asf/spark")
      .flatMap(url => Seq(url, s"$url.git"))

  def here: SparkBuild = SparkBuild(
    SPARK_VERSION,
    SPARK_REVISION,
    SPARK_REPO_URL,
    Seq(classOf[SparkContext], classOf[SparkPlan], classOf[LogicalPlan])
      .map(_.getPackage)
      .filter(p => p.getImplementationVendor != null && p.getImplementationVersion != null)
      .map(p => p.getImplementationVendor -> p.getImplementationVersion)
  )
}
