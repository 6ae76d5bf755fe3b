package org.apache.spark.sql.execution.phoebe

import java.nio.charset.StandardCharsets.UTF_8
import java.nio.file.Files

import org.apache.hadoop.conf.Configuration
import org.apache.hadoop.fs.Path
import org.scalatest.funsuite.AnyFunSuite

/** Nothing is read that was not committed whole. */
class ManifestSuite extends AnyFunSuite {
  private val conf = new Configuration

  private def manifest(fingerprint: String, user: String = "ann", createdAtMs: Long = 1): Manifest =
    Manifest(
      format = Manifest.Format,
      fingerprint = fingerprint,
      appId = "app-1",
      appAttempt = "",
      appName = "daily",
      user = user,
      executionId = 3,
      sparkVersion = "4.2.0",
      pluginVersion = "0.1.0",
      createdAtMs = createdAtMs,
      codec = "lz4",
      numMaps = 2,
      numPartitions = 3,
      bytes = 30,
      rows = 5,
      dataSizeBytes = 60,
      maps = Seq(
        ManifestMap(0, 10, "m0-10.data", 10, 77, 2, Manifest.encodeSizes(Array(0L, 4L, 6L))),
        ManifestMap(1, 12, "m1-12.data", 20, 78, 3, Manifest.encodeSizes(Array(20L, 0L, 0L)))
      )
    )

  private def store(): CheckpointStore = {
    val root = Files.createTempDirectory("phoebe-store").resolve("checkpoints")
    val made = new CheckpointStore(new Path(root.toUri), conf, "ann")
    made.prepare()
    made
  }

  private def commit(to: CheckpointStore, manifest: Manifest): Path = {
    val directory = to.newAttempt(manifest.fingerprint)
    to.commit(directory, manifest)
    directory
  }

  test("a manifest reads back equal, its block sizes with it") {
    val whole = manifest("f")
    val again = Manifest.decode(Manifest.encode(whole), "m")
    assert(again == whole)
    assert(again.maps.head.blockSizes.toSeq.map(_ > 0) == Seq(false, true, true))
  }

  test("what is not a whole manifest is refused") {
    val text = new String(Manifest.encode(manifest("f")), UTF_8)
    val damaged = Seq(
      "",
      text.take(text.length / 2),
      text.replace("\"format\" : 1", "\"format\" : 99"),
      text.replace("\"bytes\" : 30", "\"bytes\" : 31"),
      text.replace("\"num_maps\" : 2", "\"num_maps\" : 3"),
      text.replace("\"codec\" : \"lz4\",", "")
    )
    assert(!damaged.contains(text))
    damaged.foreach { bytes =>
      intercept[DamagedFileException](Manifest.decode(bytes.getBytes(UTF_8), "m"))
    }
  }

  test("the index holds the newest of each fingerprint, and no other user's") {
    val here = store()
    commit(here, manifest("a", createdAtMs = 1))
    val newest = commit(here, manifest("a", createdAtMs = 2))
    commit(here, manifest("b", user = "eve"))
    assert(
      here.readIndex().map { case (f, c) => f -> c.directory.getName } == Map("a" -> newest.getName)
    )
  }

  test("an attempt without a manifest, a damaged manifest and a tombstone count for nothing") {
    val here = store()
    val fs = CheckpointStore.fileSystem(here.root, conf)
    CheckpointStore.writeWhole(fs, new Path(here.newAttempt("a"), "m0-1.data"), Array[Byte](1))
    CheckpointStore.writeWhole(
      fs,
      new Path(here.newAttempt("b"), CheckpointStore.ManifestName),
      Array[Byte](1)
    )
    CheckpointStore.writeTombstone(commit(here, manifest("c")), conf, "damaged")
    val stray = here.newAttempt("d")
    here.commit(stray, manifest("another"))
    assert(here.readIndex().isEmpty)
  }

  test("two attempts at one fingerprint are both whole") {
    val here = store()
    val both = Seq(commit(here, manifest("a")), commit(here, manifest("a")))
    assert(both.distinct.size == 2)
    both.foreach(here.remove)
    assert(here.readIndex().isEmpty)
    assert(CheckpointStore.fileSystem(here.root, conf).listStatus(here.root).isEmpty)
  }
}
