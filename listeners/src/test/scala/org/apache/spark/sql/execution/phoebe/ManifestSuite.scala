package org.apache.spark.sql.execution.phoebe

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
      host = "elsewhere",
      pid = 1,
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

  test("any changed byte, and any manifest that does not add up, is refused") {
    val whole = Manifest.encode(manifest("f"))
    whole.indices.foreach { i =>
      val changed = whole.clone()
      changed(i) = (changed(i) ^ 1).toByte
      intercept[DamagedFileException](Manifest.decode(changed, s"byte $i"))
      intercept[DamagedFileException](Manifest.decode(whole.take(i), s"$i bytes"))
    }
    Seq(
      manifest("f").copy(format = 99),
      manifest("f").copy(bytes = 31),
      manifest("f").copy(numMaps = 3)
    ).foreach { wrong =>
      intercept[DamagedFileException](Manifest.decode(Manifest.encode(wrong), "m"))
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

  test("a checkpoint goes when nobody needs it, and stays while its writer or a reader may") {
    val here = store()
    val fs = CheckpointStore.fileSystem(here.root, conf)
    val local = org.apache.spark.util.Utils.localHostName()
    val deadPid = {
      val process = new ProcessBuilder("true").start()
      process.waitFor()
      process.pid()
    }
    def left(directory: Path): Boolean =
      fs.exists(new Path(directory, CheckpointStore.ManifestName))
    val ofTheDead = manifest("a").copy(appId = "app-0", host = local, pid = deadPid)
    val ofTheLiving = ofTheDead.copy(pid = ProcessHandle.current().pid())
    val ofAnotherHost = ofTheDead.copy(host = "elsewhere")

    val mine = commit(here, manifest("a"))
    here.release(mine, "app-1")
    assert(!fs.exists(mine))

    Seq(ofTheLiving, ofAnotherHost).foreach { kept =>
      val directory = commit(here, kept)
      here.release(directory, "app-1")
      assert(left(directory))
    }

    val restored = commit(here, ofTheDead)
    assert(here.pin(CommittedCheckpoint(restored, ofTheDead), "app-1"))
    assert(here.pin(CommittedCheckpoint(restored, ofTheDead), "app-2"))
    here.release(restored, "app-1")
    assert(left(restored), "app-2 reads it and lives")
    here.release(restored, "app-2")
    assert(!fs.exists(restored))
    assert(!here.pin(CommittedCheckpoint(restored, ofTheDead), "app-3"), "it is gone")
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
