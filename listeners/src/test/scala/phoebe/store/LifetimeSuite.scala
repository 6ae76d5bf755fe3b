package phoebe.store

import java.nio.file.{Files, Paths}
import java.nio.file.attribute.PosixFilePermissions

import org.apache.hadoop.conf.Configuration
import org.apache.hadoop.fs.{FileSystem, Path}
import org.scalatest.funsuite.AnyFunSuite

import phoebe.files.HadoopFiles
import phoebe.testing.{FaultyFileSystem, SlowFileSystem}

/** Who needs a checkpoint, and when it goes. */
class LifetimeSuite extends AnyFunSuite {
  private val conf = new Configuration
  private val LeaseMs = 60000L
  private val Fingerprint = "a" * 64
  private val Other = "b" * 64
  private val NoLimits = Limits(Long.MaxValue, Long.MaxValue)

  private def root(): Path =
    new Path(Files.createTempDirectory("phoebe-store").resolve("checkpoints").toUri)

  private def application(root: Path): CheckpointStore = {
    val made = new CheckpointStore(root, conf, LeaseMs)
    made.prepare()
    made
  }

  private def local(path: Path) = Paths.get(path.toUri.getPath)

  private def fs(root: Path): FileSystem = HadoopFiles.fileSystem(root, conf)

  /** Committed by `writer`, with one pack of `bytes`. */
  private def commit(writer: CheckpointStore, bytes: Int = 10): CheckpointPlace = {
    val place = writer.newAttempt(Fingerprint)
    HadoopFiles.writeWhole(
      writer.fs,
      new Path(place.directory, "m0-1.pack"),
      new Array[Byte](bytes)
    )
    writer.commit(place, Manifests.small(Fingerprint, writer.owner, bytes))
    place
  }

  /** As if it had last said that it lives so long ago. */
  private def silent(application: CheckpointStore, ms: Long): Unit = {
    application.renew()
    val file = CheckpointPlace.lease(application.root, application.owner)
    fs(application.root).setTimes(file, System.currentTimeMillis() - ms, -1)
  }

  private def exists(place: CheckpointPlace): Boolean =
    fs(place.root).exists(place.manifest) && fs(place.root).exists(place.directory)

  private def retire(by: CheckpointStore, place: CheckpointPlace, before: Catalog): Boolean =
    by.retire(place, before, by.living(before, System.currentTimeMillis()))

  private def collect(root: Path, limits: Limits = NoLimits): Map[CheckpointPlace, String] =
    GarbageCollection.run(application(root), limits, dryRun = false)
      .map(one => one.stocked.place -> one.reason.code).toMap

  test("what an application wrote goes with it, unless a living one restored it") {
    val here = root()
    val writer = application(here)
    val place = commit(writer)
    val reader = application(here)
    reader.pin(place)
    assert(writer.release(Set(place)).isEmpty)
    assert(exists(place), "the reader lives")
    silent(reader, 2 * LeaseMs)
    assert(writer.release(Set(place)) == Set(place))
    assert(!exists(place))
  }

  test("a reader does not take away what its writer needs, until that is silent for a lease") {
    val here = root()
    val writer = application(here)
    val place = commit(writer)
    val reader = application(here)
    reader.pin(place)
    silent(writer, LeaseMs / 2)
    reader.release(Set(place))
    assert(exists(place))
    silent(writer, LeaseMs + 5000)
    reader.release(Set(place))
    assert(!exists(place))
  }

  test("of what a manifest does not name nothing stays beside what it does") {
    val here = root()
    val writer = application(here)
    val place = commit(writer)
    val manifest = writer.readIndex()(place.fingerprint).map(writer.readManifest).head.manifest
    val half = new Path(place.directory, "m0-9.pack")
    HadoopFiles.writeWhole(fs(here), half, Array[Byte](1))
    writer.removeOthers(place, manifest)
    assert(!fs(here).exists(half) && writer.missing(place, manifest).isEmpty)
  }

  test("who has left the store does not come back to life") {
    val here = root()
    val writer = application(here)
    val lease = CheckpointPlace.lease(here, writer.owner)
    writer.stay()
    assert(fs(here).exists(lease))
    writer.dropLease()
    writer.stay() // the renewal that was due just then
    intercept[java.io.IOException](writer.release(Set(writer.newAttempt(Fingerprint))))
    assert(!fs(here).exists(lease))
  }

  test("a directory goes only while it is empty") {
    val here = root()
    Seq("file", "slow").foreach { scheme =>
      val path = new Path(s"$scheme://${here.toUri.getPath}/f/a/m0-1.pack")
      val store = HadoopFiles.fileSystem(path, SlowFileSystem.configured)
      HadoopFiles.writeWhole(store, path, Array[Byte](1))
      HadoopFiles.removeIfEmpty(store, path.getParent)
      assert(store.exists(path))
      store.delete(path, false)
      Seq.fill(2)(path.getParent).foreach(HadoopFiles.removeIfEmpty(store, _))
      assert(!store.exists(path.getParent))
    }
  }

  test("an application of this machine whose process is gone is dead at once") {
    val process = new ProcessBuilder("sleep", "60").start()
    val own = Lease.own(LeaseMs, Set.empty)
    val started = Lease.startOf(process.pid()).get
    val other = own.copy(pid = process.pid(), startedTicks = started)
    assert(!own.isDead && !other.isDead)
    assert(other.copy(startedTicks = started - 1).isDead, "the process id has come again")
    process.destroyForcibly().waitFor()
    assert(other.isDead)
    assert(!other.copy(machine = "another").isDead, "only time tells")
    assert(Lease.decode(other.encode).contains(other))
    assert(Lease.decode(other.encode.dropRight(3)).isEmpty)
  }

  test("a collection takes halves, damaged ones, old ones, and more than fits, oldest first") {
    val here = root()
    val dead = application(here)
    val places = Seq.fill(5)(commit(dead, 100))
    dead.dropLease()
    val now = System.currentTimeMillis()
    places.zipWithIndex.foreach { case (place, i) =>
      fs(here).setTimes(place.manifest, now - (5 - i) * 3600000L, -1)
    }
    Tombstone.write(places(4), conf, "flipped")
    fs(here).delete(new Path(places(3).directory, "m0-1.pack"), false)
    val half = dead.newAttempt(Other)
    HadoopFiles.writeWhole(fs(here), new Path(half.directory, "m0-1.pack"), new Array[Byte](7))
    val found = collect(here, Limits(4 * 3600000L + 1800000L, 150))
    assert(found(places(0)) == "expired")
    assert(found(places(1)) == "over_budget" && found(places(2)) == "kept")
    assert(found(places(3)) == "damaged" && found(places(4)) == "damaged")
    assert(found(half) == "being_written", "it is younger than a lease")
    fs(here).setTimes(new Path(half.directory, "m0-1.pack"), now - 2 * LeaseMs, -1)
    assert(collect(here) == Map(places(2) -> "kept", half -> "left_behind"))
    assert(places.filter(exists) == Seq(places(2)))
    val left = application(here).catalogue()
    assert(left.tombstones.isEmpty && left.readers.isEmpty && left.collectedAtMs > 0)
  }

  test("a manifest that is damaged or cannot be read may still be its writer's") {
    val here = root()
    val writer = application(here)
    val damaged = commit(writer)
    fs(here).delete(damaged.manifest, false)
    HadoopFiles.writeWhole(fs(here), damaged.manifest, new Array[Byte](50))
    fs(here).setTimes(damaged.manifest, System.currentTimeMillis() - 2 * LeaseMs, -1)
    assert(collect(here) == Map(damaged -> "being_written"), "its writer names it, and lives")
    writer.dropLease()
    assert(collect(here) == Map(damaged -> "damaged"))
  }

  test("a manifest that cannot be read now says nothing about its checkpoint") {
    val control = Files.createTempFile("faulty", "")
    val faulty = FaultyFileSystem.configured(control)
    val here = new Path("faulty://" + Files.createTempDirectory("phoebe-store"))
    def application() = {
      val made = new CheckpointStore(here, faulty, LeaseMs)
      made.prepare()
      made
    }
    val writer = application()
    val place = commit(writer)
    writer.dropLease()
    Seq("fail", "eof", "gone").foreach { trouble =>
      val collector = application()
      Files.writeString(control, s"read $trouble")
      // Nor does anything go where the store's own marker cannot be read.
      intercept[java.io.IOException](GarbageCollection.run(collector, Limits(-1, 0), false))
      intercept[java.io.IOException](application())
      val found = collector.catalogue()
      val nowMs = System.currentTimeMillis()
      val stock = StoreInventory.of(collector, found, collector.living(found, nowMs))
      assert(
        GarbageCollection.decide(stock, Limits(-1, 0), nowMs).map(_.reason.code) ==
          Seq("unreadable"),
        trouble
      )
      Files.writeString(control, "")
    }
    val removed = GarbageCollection.run(application(), Limits(-1, 0), dryRun = false)
    assert(removed.map(one => one.remove -> one.reason.code) == Seq(true -> "expired"))
    assert(!HadoopFiles.fileSystem(here, faulty).exists(place.directory))
  }

  test("a collection honours the leases of those who read and of those who write") {
    val here = root()
    val writer = application(here)
    val written = commit(writer)
    val begun = writer.newAttempt(Other)
    val pack = new Path(begun.directory, "m0-1.pack")
    HadoopFiles.writeWhole(fs(here), pack, new Array[Byte](7))
    fs(here).setTimes(pack, System.currentTimeMillis() - 10 * LeaseMs, -1)
    writer.renew()
    val all = Limits(-1, 0)
    assert(collect(here, all) == Map(written -> "in_use", begun -> "being_written"))
    silent(writer, 2 * LeaseMs)
    val reader = application(here)
    reader.pin(written)
    assert(collect(here, all) == Map(written -> "in_use", begun -> "left_behind"))
    reader.dropLease()
    assert(collect(here, all) == Map(written -> "expired"))
    assert(!fs(here).exists(written.directory))
  }

  test("a commit of what is not in the store fails") {
    val writer = application(root())
    val place = writer.newAttempt(Fingerprint)
    def failure = intercept[java.io.IOException](writer.commit(
      place,
      Manifests.small(Fingerprint, writer.owner, 10)
    ))
    fs(place.root).mkdirs(place.directory)
    assert(failure.getMessage.contains("m0-1.pack is missing"))
    val pack = new Path(place.directory, "m0-1.pack")
    HadoopFiles.writeWhole(fs(place.root), pack, new Array[Byte](9))
    assert(failure.getMessage.contains("has 9 bytes, not 10"))
    assert(!fs(place.root).exists(place.manifest))
  }

  test("who says that it reads while a collection removes either keeps the data or sees it gone") {
    val here = root()
    val writer = application(here)
    val place = commit(writer)
    writer.dropLease()
    val entry = application(here).readIndex()(Fingerprint).head
    val collector = application(here)
    val before = collector.catalogue()
    val reader = application(here)
    reader.pin(place)
    reader.readManifest(entry)
    assert(!retire(collector, place, before))
    assert(exists(place))
    reader.readManifest(entry)
    reader.dropLease()
    assert(retire(collector, place, collector.catalogue()))
    val late = application(here)
    late.pin(place)
    intercept[java.io.FileNotFoundException](late.readManifest(entry))
    late.unpin(place)
    assert(!fs(here).exists(place.directory))
  }

  test("what is committed while a collection looks stays") {
    val here = root()
    val writer = application(here)
    val begun = writer.newAttempt(Fingerprint)
    val before = application(here).catalogue()
    HadoopFiles.writeWhole(fs(here), new Path(begun.directory, "m0-1.pack"), new Array[Byte](10))
    writer.commit(begun, Manifests.small(Fingerprint, writer.owner, 10))
    assert(!retire(application(here), begun, before))
    assert(exists(begun))
  }

  test("a dry run removes nothing; hits are who restored it") {
    val here = root()
    val writer = application(here)
    val place = commit(writer)
    writer.dropLease()
    Seq.fill(3)(application(here)).foreach { reader =>
      reader.pin(place)
      reader.pin(place)
      reader.dropLease()
    }
    val Seq(one) = GarbageCollection.run(application(here), Limits(-1, 0), dryRun = true)
    assert(one.remove && one.stocked.hits == 3)
    assert(exists(place))
  }

  test("directories are private to their owner, unless the store is shared") {
    def rights(root: Path) = Seq(root, CheckpointPlace.catalog(root), CheckpointPlace.data(root))
      .map(fs(root).getFileStatus(_).getPermission.toShort.toInt.toOctalString)
    val own = root()
    application(own)
    assert(rights(own) == Seq.fill(3)("700"))
    val ours = root()
    new CheckpointStore(ours, conf, LeaseMs, shared = true).prepare()
    assert(rights(ours).forall(_ != "700"))
    val made = root()
    Files.createDirectory(local(made))
    Files.setPosixFilePermissions(local(made), PosixFilePermissions.fromString("rwxr-xr-x"))
    application(made)
    assert(rights(made) == Seq("755", "700", "700"), "in a directory that was there")
  }
}
