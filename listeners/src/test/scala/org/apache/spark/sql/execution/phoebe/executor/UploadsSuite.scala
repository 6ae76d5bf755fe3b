package org.apache.spark.sql.execution.phoebe.executor

import java.nio.file.{Files, Path, Paths}
import java.util.concurrent.{CountDownLatch, LinkedBlockingQueue, TimeUnit}

import scala.collection.mutable
import scala.jdk.CollectionConverters._

import org.apache.commons.io.FileUtils
import org.scalatest.Assertion
import org.scalatest.funsuite.AnyFunSuite

import org.apache.spark.{MapOutputTrackerMaster, SparkContext, SparkEnv}
import org.apache.spark.rpc.RpcEndpointRef
import org.apache.spark.util.SerializableConfiguration

import org.apache.spark.sql.execution.phoebe.driver.{
  CheckpointedShuffle,
  CheckpointedShuffles,
  CheckpointEndpoint
}
import org.apache.spark.sql.execution.phoebe.rpc.CheckpointMessages
import org.apache.spark.sql.execution.phoebe.rpc.CheckpointMessages._
import phoebe.Reason
import phoebe.executor.{Backlog, UploadPool, UploadQueue}
import phoebe.files.HadoopFiles
import phoebe.store.{CheckpointPlace, StoreMarker}
import phoebe.testing.{LocalContext, SlowFileSystem, SlowRequests}

/** Map outputs that a store takes in more slowly than tasks put them out. */
class UploadsSuite extends AnyFunSuite {
  private val Maps = 6
  private val Partitions = 3

  /** The linked outputs of a real shuffle, and all names that link to its files. */
  private def linked(sc: SparkContext): (Seq[LinkedOutput], () => Seq[Path]) = {
    val shuffled = sc.range(0, 10000, 1, Maps).map(i => i % 100 -> i).groupByKey(Partitions)
    assert(shuffled.count() == 100)
    val env = SparkEnv.get
    val tracker = env.mapOutputTracker.asInstanceOf[MapOutputTrackerMaster]
    val ids = tracker.shuffleStatuses(0).withMapStatuses(_.map(_.mapId))
    val outputs = ids.toSeq.zipWithIndex.map { case (id, index) =>
      val bytes = LinkedOutput.resolver(env).getDataFile(0, id).length
      LinkedOutput.of(env, 0, MapOutput(index, id, Partitions, bytes, 1, 0))
    }
    val directories = env.blockManager.diskBlockManager.localDirs.map(_.toPath).toSeq
    outputs -> (() =>
      directories.flatMap(Files.walk(_).iterator.asScala)
        .filter(_.getFileName.toString.startsWith("phoebe-upload-"))
    )
  }

  private def source(sc: SparkContext): CheckpointSource = {
    val conf = SlowFileSystem.configured
    val root = "slow://" + Files.createTempDirectory("slow-store")
    val place = CheckpointPlace(root, "f", "0" * 32)
    StoreMarker.make(HadoopFiles.fileSystem(place.root, conf), place.root, isPrivate = false)
    CheckpointSource(place, SerializableConfiguration.broadcast(sc, conf), restored = false)
  }

  private def eventually(what: String)(condition: => Boolean): Assertion = {
    val deadline = System.nanoTime() + 60L * 1000 * 1000 * 1000
    while (!condition && System.nanoTime() < deadline) Thread.sleep(20)
    assert(condition, what)
  }

  /** Queues over one pool, and a store in which no file is written whole until the end. */
  private def held(backlog: Backlog)(
      body: (
          () => UploadQueue,
          Seq[LinkedOutput],
          () => Seq[Path],
          LinkedBlockingQueue[Upload]
      ) => Unit
  ): Unit = LocalContext.using("spark.phoebe.checkpoint.upload_threads" -> "1") { sc =>
    val (outputs, links) = linked(sc)
    val where = source(sc)
    val pool = new UploadPool(SparkEnv.get, backlog)
    val told = new LinkedBlockingQueue[Upload]
    SlowRequests.holdWrites()
    try {
      body(
        () => {
          val made = new UploadQueue(pool, where, _ => true, told.add(_))
          made.start(stageIsOver = true) // each output is a pack of its own
          made
        },
        outputs,
        links,
        told
      )
    } finally {
      SlowRequests.releaseWrites()
      pool.stop()
    }
  }

  test("beyond the bound an output is not queued, and its checkpoint is given up with a reason") {
    val backlog = new Backlog(mostOutputs = 4)
    held(backlog) { (queue, outputs, links, told) =>
      assert(links().nonEmpty)
      val first = queue()
      val second = queue()
      outputs.take(2).foreach(first.add)
      outputs.slice(2, 4).foreach(second.add)
      assert(backlog.size == 4 && told.isEmpty)
      second.add(outputs(4)) // returns: the task that leaves it waits for nothing
      assert(!told.isEmpty)
      val upload = told.poll()
      assert(upload.error.code == "uploads_behind" && upload.error.args("waiting_outputs") == 4)
      assert(upload.pack == null && upload.maps.map(_.mapIndex).toSeq == Seq(4))
      // Only that one's: the other checkpoint still waits for its turn.
      eventually("what waited is let go")(backlog.size == 2)
      assert(outputs.take(2).flatMap(_.links).forall(_.exists))
      assert(outputs.slice(2, 5).flatMap(_.links).forall(!_.exists))
      second.add(outputs(5))
      assert(told.isEmpty && outputs(5).links.forall(!_.exists), "it was said once")
      SlowRequests.releaseWrites()
      eventually("what waits is uploaded once the store goes on")(backlog.size == 0)
      assert(links().isEmpty && told.isEmpty)
    }
  }

  test("what is given up behind a store that hangs keeps no files") {
    val backlog = new Backlog()
    held(backlog) { (queue, outputs, links, _) =>
      val first = queue()
      first.add(outputs.head)
      eventually("the only thread is in the store")(SlowRequests.count("write") > 0)
      val second = queue()
      outputs.tail.foreach(second.add)
      assert(backlog.size == Maps)
      second.close()
      assert(backlog.size == 1)
      assert(links().toSet == outputs.head.links.map(_.toPath).toSet)
    }
  }

  test("what is given up while the driver is told of an upload leaves no file") {
    LocalContext.using() { sc =>
      val (outputs, links) = linked(sc)
      val where = source(sc)
      val pool = new UploadPool(SparkEnv.get)
      val asked = new LinkedBlockingQueue[Upload]
      val answers = new CountDownLatch(1)
      try {
        val queue = new UploadQueue(
          pool,
          where,
          upload => {
            asked.add(upload)
            answers.await()
            false // as to whoever tells of an upload to a checkpoint that was given up
          },
          _ => ()
        )
        queue.start(stageIsOver = true)
        outputs.foreach(queue.add)
        val told = asked.poll(60, TimeUnit.SECONDS)
        val data = Paths.get(where.place.directory.toUri.getPath)
        assert(told.error == null && Files.exists(data.resolve(told.pack.file)))
        queue.close()
        answers.countDown()
        eventually("all is let go")(pool.backlog.size == 0 && links().isEmpty)
        eventually("nothing is left in the store")(!Files.exists(data.getParent))
      } finally pool.stop()
    }
  }

  test("what was given up before it was joined waits behind no other upload") {
    LocalContext.using("spark.phoebe.checkpoint.upload_threads" -> "1") { sc =>
      val (outputs, links) = linked(sc)
      outputs.foreach(_.release())
      val env = SparkEnv.get
      val where = source(sc)
      val shuffles = new CheckpointedShuffles
      shuffles.put(0, new OneShuffle(Uploading(where.place, stageIsOver = true)))
      shuffles.put(1, new OneShuffle(Ordinary))
      val endpoint = new CheckpointEndpoint(env.rpcEnv, shuffles)
      env.rpcEnv.setupEndpoint(CheckpointMessages.Driver, endpoint)
      val executor = new ExecutorCheckpoints(env)
      val resolver = LinkedOutput.resolver(env)
      // The second shuffle's files: what the first one's are, under another name.
      val first = outputs.head.output
      def files(shuffleId: Int) =
        Seq(
          resolver.getDataFile(shuffleId, first.mapId),
          resolver.getIndexFile(shuffleId, first.mapId)
        )
      files(0).zip(files(1)).foreach { case (from, to) => Files.copy(from.toPath, to.toPath) }
      SlowRequests.reset()
      SlowRequests.holdWrites()
      try {
        executor.upload(0, where, first)
        eventually("the only thread is in the store")(SlowRequests.count("write") > 0)
        executor.upload(1, where, first)
        eventually("it is let go") {
          !links().exists(_.getFileName.toString.startsWith("phoebe-upload-shuffle_1_"))
        }
        assert(links().nonEmpty, "the other one is still under way")
      } finally SlowRequests.releaseWrites()
    }
  }

  test("an executor whose word comes after its end is waited for by nobody") {
    LocalContext.using() { _ =>
      val shuffles = new CheckpointedShuffles
      val rpcEnv = SparkEnv.get.rpcEnv
      val executor = rpcEnv.setupEndpoint("executor", new CheckpointEndpoint(rpcEnv, shuffles))
      val shuffle = new OneShuffle(Ordinary)
      shuffles.put(7, shuffle)
      shuffles.join(7, "1", executor)
      shuffles.executorLost("2")
      assert(shuffle.lost.toSeq == Seq("2"))
      shuffles.join(7, "2", executor)
      shuffles.greeted("2", executor)
      assert(shuffle.lost.toSeq == Seq("2", "2", "2") && shuffles.executors.isEmpty)
      shuffles.executorAdded("2")
      shuffles.greeted("2", executor)
      assert(shuffles.executors.keySet == Set("2"), "another one of that id")
    }
  }

  /** A shuffle that stands still. */
  private final class OneShuffle(state: ShuffleState) extends CheckpointedShuffle {
    val lost = mutable.Buffer.empty[String]
    override def executionId: Long = 0
    override def isOver: Boolean = false
    override def isStored: Boolean = false
    override def isUploading: Boolean = true
    override def isCommitting: Boolean = false
    override def join(executorId: String, executor: RpcEndpointRef): ShuffleState = state
    override def executors: Map[String, RpcEndpointRef] = Map.empty
    override def executorLost(executorId: String): Unit = lost += executorId
    override def drained(executorId: String): Unit = ()
    override def uploaded(upload: Upload): Boolean = true
    override def abandon(reason: Reason): Unit = ()
  }

  test("a store that is gone between two packs is not made anew for the second") {
    LocalContext.using("spark.phoebe.checkpoint.upload_threads" -> "1") { sc =>
      val (outputs, _) = linked(sc)
      val where = source(sc)
      val pool = new UploadPool(SparkEnv.get)
      val reported = new LinkedBlockingQueue[Upload]
      try {
        val queue = new UploadQueue(pool, where, reported.add(_), _ => ())
        queue.start(stageIsOver = true)
        queue.add(outputs.head)
        assert(reported.poll(60, TimeUnit.SECONDS).error == null)
        val root = Paths.get(where.place.root.toUri.getPath)
        FileUtils.deleteDirectory(root.toFile)
        queue.add(outputs(1))
        val second = reported.poll(60, TimeUnit.SECONDS)
        assert(second.pack == null && second.error.toString.contains("is gone"))
        assert(!Files.exists(root))
      } finally pool.stop()
    }
  }

  test("no more bytes wait than their disk has left, or than one pack gathers") {
    def output(bytes: Long): LinkedOutput = {
      val file = new java.io.File("/nowhere/shuffle_0_0_0.index")
      LinkedOutput(MapOutput(0, 0, 1, bytes, 1, 0), None, file, None, Nil)
    }
    var left = 1000L
    val backlog = new Backlog(alwaysBytes = 100, usable = _ => left)
    val small = output(400)
    assert(backlog.take(small).isEmpty && backlog.take(output(600)).isEmpty)
    val refused = backlog.take(output(1))
    assert(refused.map(_.code).contains("uploads_behind"))
    assert(refused.get.args("waiting_bytes") == 1000L && backlog.size == 2)
    backlog.done(small)
    assert(backlog.take(output(400)).isEmpty)
    left = 0
    assert(backlog.take(output(1)).isDefined)
    assert(new Backlog(alwaysBytes = 100, usable = _ => 0).take(output(100)).isEmpty)
  }
}
