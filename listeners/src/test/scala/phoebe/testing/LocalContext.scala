package phoebe.testing

import org.apache.spark.{SparkConf, SparkContext}

object LocalContext {

  /** Runs `body` with a context of one core, which ends with it: a JVM has but one. */
  def using[T](settings: (String, String)*)(body: SparkContext => T): T = {
    val conf = new SparkConf(false)
      .setMaster("local[1]")
      .setAppName("test")
      .set("spark.ui.enabled", "false")
      .set("spark.driver.host", "127.0.0.1")
      .set("spark.driver.bindAddress", "127.0.0.1")
      // Files of shuffles that no variable holds any more stay: a collection comes when it likes.
      .set("spark.cleaner.referenceTracking", "false")
      .setAll(settings)
    val sc = new SparkContext(conf)
    try body(sc)
    finally sc.stop()
  }
}
