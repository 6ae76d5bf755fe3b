package org.apache.spark.sql.execution.phoebe.store

import java.nio.file.Files

import org.apache.hadoop.conf.Configuration
import org.apache.hadoop.fs.Path
import org.scalatest.funsuite.AnyFunSuite

import org.apache.spark.scheduler.MapStatus
import org.apache.spark.sql.execution.phoebe.driver.MapStatuses
import org.apache.spark.sql.execution.phoebe.exchange.StoreLocation
import phoebe.files.{DamagedFileException, HadoopFiles}
import phoebe.store.{
  CheckpointPlace,
  CheckpointStore,
  Manifest,
  ManifestPack,
  Manifests,
  StoreMarker,
  Tombstone
}

/** Nothing is read that was not committed whole. */
class ManifestSuite extends AnyFunSuite {
  private val conf = new Configuration

  private def manifest(fingerprint: String, user: String = "ann", createdAtMs: Long = 1): Manifest =
    Manifests.small(fingerprint, owner = "0" * 16, bytes = 30).copy(
      user = user,
      createdAtMs = createdAtMs,
      inputs = "1" * 64,
      numMaps = 2,
      numPartitions = 3,
      rows = 5,
      dataSizeBytes = 60,
      packs = Seq(ManifestPack("m0-10.pack", 100, 60, 77, 64, Seq(10L, 11L, 12L))),
      mapIds = Seq(10L, 12L),
      statuses = MapStatuses.encode(Seq(
        MapStatus(StoreLocation(1, 0), Array(0L, 4L, 6L), 10L),
        MapStatus(StoreLocation(1, 1), Array(20L, 0L, 0L), 12L)
      ))
    )

  private def of(letter: String): String = letter * 64

  private def store(): CheckpointStore = {
    val root = Files.createTempDirectory("phoebe-store").resolve("checkpoints")
    val made = new CheckpointStore(new Path(root.toUri), conf, 60000)
    made.prepare()
    made
  }

  private def commit(to: CheckpointStore, manifest: Manifest): CheckpointPlace =
    commit(to, manifest, to.newAttempt(manifest.fingerprint))

  private def commit(
      to: CheckpointStore,
      manifest: Manifest,
      place: CheckpointPlace
  ): CheckpointPlace = {
    manifest.packs.foreach { pack =>
      val file = new Path(place.directory, pack.file)
      HadoopFiles.writeWhole(to.fs, file, new Array[Byte](pack.bytes.toInt))
    }
    to.commit(place, manifest.copy(owner = to.owner))
    place
  }

  test("a manifest reads back equal, its block sizes with it") {
    val whole = manifest("f")
    val again = Manifest.decode(Manifest.encode(whole), "m")
    assert(again == whole)
    assert(MapStatuses.of(again).map(_.mapId).toSeq == again.mapIds)
    assert(again.packs.head.pack.mapIds.sum == 33, "longs, not what JSON makes of small ones")
    val sizes = MapStatuses.of(again).map(status => (0 until 3).map(status.getSizeForBlock))
    assert(sizes.head.map(_ > 0) == Seq(false, true, true))
    assert(sizes.last == Seq(21, 0, 0), "Spark's own compressed sizes")
  }

  test("very many partitions are kept as Spark keeps them") {
    val sizes = Array.tabulate(5000)(i => if (i % 2 == 0) 0L else 1000L)
    val status = MapStatus(StoreLocation(1, 0), sizes, 10L)
    val one = manifest("f").copy(
      numMaps = 1,
      mapIds = Seq(10L),
      statuses = MapStatuses.encode(Seq(status))
    )
    val again = MapStatuses.of(Manifest.decode(Manifest.encode(one), "m")).head
    assert(again.getClass == status.getClass)
    sizes.indices.foreach(i => assert(again.getSizeForBlock(i) == status.getSizeForBlock(i)))
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
      manifest("f").copy(mapIds = Seq(10L, 13L)),
      manifest("f").copy(numMaps = 3)
    ).foreach { wrong =>
      intercept[DamagedFileException](Manifest.decode(Manifest.encode(wrong), "m"))
    }
  }

  test("the index holds every fingerprint's checkpoints, newest first") {
    val here = store()
    val fs = HadoopFiles.fileSystem(here.root, conf)
    val both = Seq(commit(here, manifest(of("a"))), commit(here, manifest(of("a"))))
    val other = commit(here, manifest(of("b")))
    both.zip(Seq(1000L, 2000L)).foreach { case (p, t) => fs.setTimes(p.manifest, t, -1) }
    val index = here.readIndex()
    assert(index(of("a")).map(_.place) == both.reverse)
    assert(index(of("b")).map(_.place) == Seq(other))
    assert(here.readManifest(index(of("b")).head).manifest == manifest(of("b")).copy(owner =
      here.owner
    ))
  }

  test("an attempt without a manifest and a tombstone count for nothing") {
    val here = store()
    val fs = HadoopFiles.fileSystem(here.root, conf)
    HadoopFiles.writeWhole(
      fs,
      new Path(here.newAttempt(of("a")).directory, "m0-1.pack"),
      Array[Byte](1)
    )
    Tombstone.write(commit(here, manifest(of("c"))), conf, "damaged")
    assert(here.readIndex().isEmpty)
  }

  test("no tombstone makes a store that is gone come back as a directory that is none") {
    val here = store()
    val place = commit(here, manifest(of("c")))
    val fs = HadoopFiles.fileSystem(here.root, conf)
    fs.delete(here.root, true)
    Tombstone.write(place, conf, "its files are gone")
    assert(!fs.exists(here.root))
  }

  test("a manifest that is damaged, or of another fingerprint than its name, is refused") {
    val here = store()
    HadoopFiles.writeWhole(
      HadoopFiles.fileSystem(here.root, conf),
      here.newAttempt(of("b")).manifest,
      Array[Byte](1)
    )
    commit(here, manifest(of("e")), here.newAttempt(of("d")))
    val index = here.readIndex()
    Seq("b", "d").foreach { f =>
      intercept[DamagedFileException](here.readManifest(index(of(f)).head))
    }
  }

  test("two attempts at one fingerprint are both whole") {
    val here = store()
    val both = Seq(commit(here, manifest(of("a"))), commit(here, manifest(of("a"))))
    assert(both.distinct.size == 2)
    both.foreach(here.remove)
    here.dropLease()
    assert(here.readIndex().isEmpty)
    val files = HadoopFiles.fileSystem(here.root, conf).listFiles(here.root, true)
    assert(files.next().getPath.getName == StoreMarker.Name && !files.hasNext)
  }
}
