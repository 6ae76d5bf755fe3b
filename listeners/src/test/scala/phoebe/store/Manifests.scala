package phoebe.store

import org.apache.spark.sql.execution.phoebe.driver.MapStatuses

/** Manifests for suites, which change what they are about. */
object Manifests {

  /** Of one pack, `m0-1.pack`, with the bytes of one map output. */
  def small(fingerprint: String, owner: String, bytes: Int): Manifest = Manifest(
    format = Manifest.Format,
    fingerprint = fingerprint,
    appId = "app-1",
    appAttempt = "",
    appName = "daily",
    user = "ann",
    executionId = 3,
    sparkVersion = "4.2.0",
    pluginVersion = "0.1.0",
    createdAtMs = 1,
    owner = owner,
    inputs = "",
    workMs = 1000,
    codec = "lz4",
    numMaps = 1,
    numPartitions = 1,
    bytes = bytes,
    rows = 1,
    dataSizeBytes = bytes,
    packs = Seq(ManifestPack("m0-1.pack", bytes, 0, 0, 64, Seq(1L))),
    mapIds = Seq(1L),
    statuses = MapStatuses.encode(Nil)
  )
}
