package phoebe.settings

/** Local properties by which a thread's jobs and plans say that they are ours. */
object LocalProperties {

  /** Jobs that are our own: neither harvested nor planned. */
  val Internal = "spark.phoebe.internal"

  /** What plans a boundary's original input: what it plans in turn is left alone. */
  val Recomputing = "spark.phoebe.recomputing"
}
