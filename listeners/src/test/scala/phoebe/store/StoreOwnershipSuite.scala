package phoebe.store

import java.nio.file.{Files, Path => LocalPath, Paths}
import java.nio.file.attribute.{FileTime, PosixFilePermissions}
import java.util.concurrent.{CountDownLatch, Executors, TimeUnit}

import scala.jdk.CollectionConverters._

import org.apache.commons.io.FileUtils
import org.apache.hadoop.conf.Configuration
import org.apache.hadoop.fs.Path
import org.scalatest.funsuite.AnyFunSuite

import org.apache.spark.SparkConf

import phoebe.files.{DamagedFileException, HadoopFiles}
import phoebe.harvest.Spool
import phoebe.settings.PhoebeSettings
import phoebe.testing.{FaultyFileSystem, SlowFileSystem}

/** Whose a directory is, and what an application that was away may still do in one. */
class StoreOwnershipSuite extends AnyFunSuite {
  private val conf = new Configuration
  private val LeaseMs = 60000L
  private val Fingerprint = "a" * 64
  private val Everything = Limits(-1, 0)

  private def until(condition: => Boolean): Unit = {
    val deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(60)
    while (!condition) {
      assert(System.nanoTime() < deadline, "it did not come to pass in a minute")
      Thread.sleep(10)
    }
  }

  private def folder(): LocalPath = Files.createTempDirectory("phoebe-owned")
  private def uri(path: LocalPath): Path = new Path(path.toUri)

  private def application(
      root: Path,
      conf: Configuration = conf,
      shared: Boolean = false
  ): CheckpointStore = {
    val made = new CheckpointStore(root, conf, LeaseMs, shared)
    made.prepare()
    made
  }

  private def begun(writer: CheckpointStore): CheckpointPlace = {
    val place = writer.newAttempt(Fingerprint)
    HadoopFiles.writeWhole(writer.fs, new Path(place.directory, "m0-1.pack"), new Array[Byte](10))
    place
  }

  private def manifest(owner: String) = Manifests.small(Fingerprint, owner, bytes = 10)

  private def commit(writer: CheckpointStore, place: CheckpointPlace): CheckpointPlace = {
    writer.commit(place, manifest(writer.owner))
    place
  }

  private def committed(writer: CheckpointStore): CheckpointPlace = commit(writer, begun(writer))

  private def collect(by: CheckpointStore): Seq[(Boolean, String)] =
    GarbageCollection.run(by, Everything, dryRun = false).map(c => c.remove -> c.reason.code)

  private def refused(body: => Any): String = {
    val message = intercept[StoreRefusedException](body).getMessage
    assert(message.linesIterator.size == 1)
    message
  }

  private def tree(root: LocalPath): Set[String] =
    Files.walk(root).iterator.asScala.map(root.relativize(_).toString).toSet

  private def old(root: LocalPath): Unit = Files.walk(root).iterator.asScala.toSeq.reverse
    .foreach(Files.setLastModifiedTime(_, FileTime.fromMillis(1000)))

  private def write(path: LocalPath): LocalPath = {
    Files.createDirectories(path.getParent)
    Files.writeString(path, "theirs")
  }

  /** As if its driver were stopped, and its lease had run out meanwhile. */
  private def away(application: CheckpointStore, root: Path): Unit = {
    val lease = Paths.get(CheckpointPlace.lease(root, application.owner).toUri.getPath)
    val text = Files.readString(lease).replaceFirst("\"machine\":\"[^\"]*\"", "\"machine\":\"\"")
    Files.writeString(lease, text)
    Files.setLastModifiedTime(lease, FileTime.fromMillis(System.currentTimeMillis() - 2 * LeaseMs))
  }

  test("a directory that is not empty and has no marker is refused, and nothing in it changes") {
    Seq("data/sales/part-0.csv", "catalog/x", "file", s"data/$Fingerprint/${"0" * 32}/m0-1.pack")
      .foreach { name =>
        val lake = folder()
        write(lake.resolve(name))
        old(lake)
        val before = tree(lake)
        val here = new CheckpointStore(uri(lake), conf, LeaseMs)
        assert(refused(here.prepare()).contains("name a new or an empty directory"))
        refused(GarbageCollection.run(here, Everything, dryRun = false))
        refused(here.commit(here.newAttempt(Fingerprint), manifest(here.owner)))
        refused(new CheckpointStore(uri(lake), conf, LeaseMs).open())
        here.remove(here.newAttempt(Fingerprint))
        assert(tree(lake) == before, name)
      }
  }

  test("what is not ours by its full name stays in a store, wherever it lies") {
    val root = folder()
    val here = uri(root)
    val writer = application(here)
    val places = Seq.fill(3)(committed(writer))
    val half = begun(writer)
    writer.dropLease()
    val Seq(first, second, third) = places.map(place => Paths.get(place.directory.toUri.getPath))
    val other = "b" * 64
    val foreign = Seq(
      root.resolve("data/sales/year=2024/part-0.csv"),
      root.resolve(s"data/$other/readme"),
      root.resolve(s"data/$other/${"1" * 32}/part-0.csv"),
      root.resolve(s"data/$other/${"2" * 31}/m0-1.pack"),
      root.resolve(s"data/${"c" * 63}/${"3" * 32}/m0-1.pack"),
      root.resolve(s"data/$other/${"4" * 32}/m0-1.pack.bak"),
      first.resolve("notes.txt"),
      second.resolve("m0-1.pack/within"),
      second.resolve("_SUCCESS"),
      root.resolve("catalog/mine.manifest"),
      root.resolve(s"catalog/$other.damaged"),
      root.resolve(s"catalog/${places.head.stem}.reader-ann"),
      root.resolve(s"catalog/${"5" * 15}.lease"),
      root.resolve("catalog/x.tmp"),
      root.resolve("tables/part-0.parquet")
    )
    Files.delete(second.resolve("m0-1.pack"))
    foreign.foreach(write)
    old(root)
    val found = collect(application(here))
    assert(found.forall(_._1) && found.size == 4, found)
    foreign.foreach(path => assert(Files.exists(path), path))
    assert(!Files.exists(third) && !Files.exists(Paths.get(half.directory.toUri.getPath)))
    assert(tree(first).size == 2, "only the other's file is left, and so is the directory")
    assert(collect(application(here)).isEmpty, "what is not ours is not looked at again")

    // What an application removes at its end.
    val again = application(here)
    val own = committed(again)
    val pack = Paths.get(own.directory.toUri.getPath)
    write(pack.resolve("notes.txt"))
    write(pack.resolve("m0-9.pack"))
    again.removeOthers(own, manifest(again.owner))
    assert(tree(pack) == Set("", "m0-1.pack", "notes.txt"))
    assert(again.release(Set(own)) == Set(own))
    assert(tree(pack) == Set("", "notes.txt"))
  }

  test("links are not followed out of a store") {
    val theirs = folder()
    val attempt = s"$Fingerprint/${"0" * 32}"
    val pack = write(theirs.resolve(s"$attempt/m0-1.pack"))
    old(theirs)
    val root = folder()
    val link = root.getParent.resolve(root.getFileName.toString + "-link")
    Files.createSymbolicLink(link, root)
    val here = application(uri(link)) // the store itself may be linked to
    Files.createSymbolicLink(root.resolve(s"data/$Fingerprint"), theirs.resolve(Fingerprint))
    assert(collect(here).isEmpty)
    here.remove(CheckpointPlace(uri(root).toString, Fingerprint, "0" * 32))
    assert(Files.exists(pack))
    Files.delete(root.resolve(s"data/$Fingerprint"))
    Files.delete(root.resolve("data"))
    Files.createSymbolicLink(root.resolve("data"), theirs)
    assert(refused(application(uri(root))).contains("symbolic link"))
    refused(new CheckpointStore(uri(root), conf, LeaseMs).open())
    refused(collect(here))
    here.remove(CheckpointPlace(uri(root).toString, Fingerprint, "0" * 32))
    assert(Files.exists(pack))
  }

  test("of drivers that make a store at once all get the same one") {
    Seq("file", "slow").foreach { scheme =>
      (1 to 20).foreach { _ =>
        val root = new Path(s"$scheme://${folder().resolve("new/store")}")
        val pool = Executors.newFixedThreadPool(8)
        val start = new CountDownLatch(1)
        val made = Seq.fill(8)(pool.submit { () =>
          start.await()
          application(root, SlowFileSystem.configured)
          StoreMarker.read(HadoopFiles.fileSystem(root, SlowFileSystem.configured), root).get
        })
        start.countDown()
        assert(made.map(_.get(60, TimeUnit.SECONDS)).toSet.size == 1)
        pool.shutdown()
        val left = tree(Paths.get(root.toUri.getPath))
        assert(left == Set("", "catalog", "data", StoreMarker.Name), left)
      }
    }
  }

  test("a store whose marker is gone, another one, newer or damaged is left as it is") {
    val root = folder()
    val here = application(uri(root))
    val place = committed(here)
    val next = begun(here)
    val before = here.catalogue()
    val marker = root.resolve(StoreMarker.Name)
    val mine = Files.readString(marker)
    val newer = mine.replaceFirst("\"format\":\\d+", "\"format\":99")
    val other = StoreMarker(StoreMarker.Format, "f" * 32).encode
    val all = tree(root)
    Seq(Array.emptyByteArray, newer.getBytes, other, null).foreach { content =>
      if (content == null) Files.delete(marker) else Files.write(marker, content)
      refused(here.commit(next, manifest(here.owner)))
      refused(here.retire(place, before, here.living(before, System.currentTimeMillis())))
      refused(GarbageCollection.run(here, Everything, dryRun = false))
      here.remove(place)
      here.remove(next)
      assert(here.release(Set(place)).isEmpty)
      if (content == null || !content.sameElements(other)) refused(application(uri(root)))
      assert(tree(root).filterNot(_.endsWith(".lease")) ==
        all.filterNot(n => n.endsWith(".lease") || content == null && n == StoreMarker.Name))
    }
    Files.writeString(marker, mine)
    assert(here.release(Set(place)) == Set(place))
  }

  test("a store is not made among a table's files, nor among those of the home") {
    Seq("_delta_log", "_SUCCESS", ".hoodie", "metadata/version-hint.text").foreach { sign =>
      val table = folder()
      write(table.resolve(s"$sign/x").getParent)
      assert(refused(application(uri(table.resolve("a/checkpoints")))).contains("lies in a table"))
      assert(!Files.exists(table.resolve("a")))
    }
    val home = folder()
    val link = home.getParent.resolve(home.getFileName.toString + "-link")
    Files.createSymbolicLink(link, home)
    def misplaced(dir: Any) = PhoebeSettings.read(
      new SparkConf(false).set("spark.phoebe.home", home.toString)
        .set("spark.phoebe.checkpoint.dir", dir.toString)
    ).toOption.get.misplacedStore
    Seq("", "/", "/tables", "/tables/stages", "/bundle", "/spool/x", "/checkpoints/../tables")
      .foreach { dir =>
        assert(misplaced(s"$home$dir").isDefined, dir)
        assert(misplaced(s"file:$link$dir").isDefined, dir)
      }
    Seq("/checkpoints", "/tables2", "/x/tables").foreach(d => assert(misplaced(s"$home$d").isEmpty))
    assert(misplaced("s3a://bucket").isEmpty)
  }

  test("what others may write is not trusted, unless users share") {
    val root = folder().resolve("store")
    val place = committed(application(uri(root)))
    val entry = application(uri(root)).catalogue().entries.head
    val manifest = Paths.get(place.manifest.toUri.getPath)
    assert(PosixFilePermissions.toString(Files.getPosixFilePermissions(manifest)) == "rw-------")
    application(uri(root)).readManifest(entry)
    def restoring(path: LocalPath, mode: String)(body: => Any): Unit = {
      val before = Files.getPosixFilePermissions(path)
      Files.setPosixFilePermissions(path, PosixFilePermissions.fromString(mode))
      body
      Files.setPosixFilePermissions(path, before)
    }
    Seq(root, root.resolve("catalog"), root.resolve("data")).foreach { directory =>
      Seq("rwxrwxr-x", "rwx----w-").foreach { mode =>
        restoring(directory, mode) {
          assert(refused(application(uri(root))).contains("may be written by"))
          application(uri(root), shared = true).readManifest(entry)
        }
      }
      restoring(directory, "rwxr-xr-x")(application(uri(root)))
    }
    val here = application(uri(root))
    Seq("rw-rw-r--", "rw-----w-").foreach { mode =>
      restoring(manifest, mode)(intercept[NotOwnException](here.readManifest(entry)))
    }
    val copy = Files.copy(manifest, folder().resolve("planted"))
    Files.delete(manifest)
    Files.createSymbolicLink(manifest, copy)
    intercept[NotOwnException](here.readManifest(entry))
    Files.delete(manifest)
    Files.move(copy, manifest)
    here.readManifest(entry)
    val nobody =
      folder().getFileSystem.getUserPrincipalLookupService.lookupPrincipalByName("nobody")
    if (Rights.of(here.fs, uri(root), true).get.owner == "root") { // only root may give files away
      Files.setOwner(manifest, nobody)
      assert(intercept[NotOwnException](here.readManifest(entry)).getMessage.contains("nobody"))
      application(uri(root), shared = true).readManifest(entry)
      Files.setOwner(root, nobody)
      assert(refused(application(uri(root))).contains("belongs to nobody"))
    }
  }

  test("an application that was away for longer than its lease commits and removes nothing") {
    val root = folder()
    val here = uri(root)
    val paused = application(here)
    val kept = committed(paused)
    val half = begun(paused)
    val entry = paused.catalogue().entries.head
    paused.renew()
    away(paused, here)
    val successor = application(here)
    successor.renew()
    successor.watch()
    successor.pin(kept)
    assert(successor.readManifest(entry).place == kept, "committed before its lease ran out")
    val before = tree(root)
    intercept[LeaseLostException](paused.commit(half, manifest(paused.owner)))
    assert(paused.isLost)
    paused.remove(half)
    paused.remove(kept)
    assert(paused.release(Set(kept, half)).isEmpty)
    intercept[LeaseLostException](GarbageCollection.run(paused, Everything, dryRun = false))
    intercept[LeaseLostException](paused.renew())
    paused.stay()
    assert(tree(root) == before)
    assert(successor.release(Set(kept)) == Set(kept))
  }

  test("a store that is gone under an application is not made anew by what it says there") {
    val root = folder()
    val here = uri(root)
    val running = application(here)
    val kept = committed(running)
    running.renew()
    FileUtils.deleteDirectory(root.toFile)
    intercept[StoreRefusedException](running.renew())
    intercept[StoreRefusedException](running.pin(kept))
    assert(!Files.exists(root))
    assert(application(here).catalogue().entries.isEmpty, "the next one may use the place")
    intercept[StoreRefusedException](running.renew())
  }

  test("an application that was stopped finds so by itself, a store that fails is no such thing") {
    val control = Files.createTempFile("faulty", "")
    val here = new Path("faulty://" + folder())
    val one = new CheckpointStore(here, FaultyFileSystem.configured(control), 1500)
    one.prepare()
    val place = begun(one)
    one.renew()
    Files.writeString(control, "write fail")
    val until = System.nanoTime() + 3L * 1000 * 1000 * 1000
    while (System.nanoTime() < until) { // longer than its lease
      intercept[java.io.IOException](one.renew())
      Thread.sleep(100)
    }
    Files.writeString(control, "")
    commit(one, place)
    assert(!one.isLost)
    Thread.sleep(2000)
    intercept[LeaseLostException](one.commit(begun(one), manifest(one.owner)))
  }

  test("stopped right at its commit, an application is told so, and nobody believes the manifest") {
    val control = Files.createTempFile("faulty", "")
    val root = folder()
    val theirs = new Path("faulty://" + root)
    val paused = application(theirs, FaultyFileSystem.configured(control))
    val before = committed(paused)
    val place = begun(paused)
    Files.writeString(control, "rename hang")
    val pool = Executors.newSingleThreadExecutor()
    val commits = pool.submit(() => commit(paused, place))
    val temporary = Paths.get(place.directory.toUri.getPath).resolve("manifest.tmp")
    until(Files.exists(temporary))
    val here = uri(root)
    away(paused, here)
    val successor = application(here)
    successor.renew()
    successor.watch()
    Files.writeString(control, "")
    val error =
      intercept[java.util.concurrent.ExecutionException](commits.get(60, TimeUnit.SECONDS))
    assert(error.getCause.isInstanceOf[LeaseLostException])
    pool.shutdown()
    val entries = successor.catalogue().entries.map(e => e.place.attempt -> e).toMap
    assert(entries.keySet == Set(before.attempt, place.attempt), "its last act was under way")
    successor.readManifest(entries(before.attempt))
    intercept[DamagedFileException](successor.readManifest(entries(place.attempt)))
    intercept[DamagedFileException](application(here).readManifest(entries(place.attempt)))
    old(root.resolve("catalog"))
    old(root.resolve("data"))
    assert(collect(successor).toSet == Set(true -> "damaged", true -> "expired"))
  }

  test("stopped in a removal, an application takes nothing from who has come since") {
    val control = Files.createTempFile("faulty", "")
    val root = folder()
    val here = uri(root)
    val writer = application(here)
    val place = committed(writer)
    writer.dropLease()
    val entry = writer.catalogue().entries.head
    val pool = Executors.newCachedThreadPool()
    val leaving = Paths.get(place.leaving.toUri.getPath)

    // Before its word that the checkpoint leaves.
    val paused = application(new Path("faulty://" + root), FaultyFileSystem.configured(control))
    paused.renew()
    Files.writeString(control, "rename hang")
    val first = pool.submit(() => collect(paused))
    until(tree(root.resolve("catalog")).exists(_.contains(".leaving.")))
    away(paused, here)
    val reader = application(here)
    reader.renew()
    reader.watch()
    reader.pin(place)
    reader.readManifest(entry)
    Files.writeString(control, "")
    val error = intercept[java.util.concurrent.ExecutionException](first.get(60, TimeUnit.SECONDS))
    assert(error.getCause.isInstanceOf[LeaseLostException])
    assert(Files.exists(Paths.get(place.manifest.toUri.getPath)))
    assert(reader.missing(place, manifest(writer.owner)).isEmpty)
    reader.dropLease()
    Files.deleteIfExists(leaving)

    // After it: nobody begins to read what may go at any time.
    val again = application(new Path("faulty://" + root), FaultyFileSystem.configured(control))
    again.renew()
    Files.writeString(control, "delete hang")
    val second = pool.submit(() => collect(again))
    until(Files.exists(leaving))
    val late = application(here)
    late.pin(place)
    intercept[java.io.FileNotFoundException](late.readManifest(entry))
    assert(!late.readIndex().contains(Fingerprint))
    late.unpin(place)
    late.dropLease()
    Files.writeString(control, "")
    second.get(60, TimeUnit.SECONDS)
    pool.shutdown()
    assert(!Files.exists(Paths.get(place.directory.toUri.getPath)) && !Files.exists(leaving))
  }

  test("a spool is for its owner's eyes only") {
    val home = folder().resolve("home")
    def rights(path: LocalPath) = PosixFilePermissions.toString(Files.getPosixFilePermissions(path))
    Seq("a", "a").foreach { id =>
      val spool = Spool.open(uri(home), id, "", conf)
      spool.write("line")
      spool.flush()
      val file = Paths.get(spool.path.toUri.getPath)
      assert(rights(file) == "rw-------" && Files.readString(file) == "line\n")
      spool.close()
    }
    assert(rights(home.resolve("spool")) == "rwx------")
    assert(tree(home.resolve("spool")).size == 3)
  }
}
