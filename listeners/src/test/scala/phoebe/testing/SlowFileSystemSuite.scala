package phoebe.testing

import java.nio.file.Files
import java.util.concurrent.{CompletableFuture, TimeUnit, TimeoutException}

import org.apache.hadoop.conf.Configuration
import org.apache.hadoop.fs.Path
import org.scalatest.funsuite.AnyFunSuite

class SlowFileSystemSuite extends AnyFunSuite {

  private val conf = SlowFileSystem.configured
  private val root = new Path("slow://" + Files.createTempDirectory("slow"))
  private val fs = root.getFileSystem(conf)

  test("each request is counted by its kind, and reads by range") {
    val file = new Path(root, "a/b")
    SlowRequests.reset()
    val out = fs.create(file)
    out.write(Array.tabulate[Byte](1000)(_.toByte))
    out.close()
    assert(SlowRequests.count("write") == 1 && SlowRequests.total == 1)
    val in = fs.open(file)
    val bytes = new Array[Byte](10)
    in.readFully(bytes)
    in.readFully(bytes)
    assert(bytes(0) == 10 && SlowRequests.count("read") == 1 && SlowRequests.count("status") == 1)
    in.seek(500)
    in.readFully(bytes)
    in.readFully(900L, bytes)
    assert(SlowRequests.count("read") == 3)
    in.close()
    val status = fs.listStatus(new Path(root, "a")).head
    assert(status.getPath == fs.makeQualified(file) && SlowRequests.count("list") == 1)
    val before = SlowRequests.count("read")
    val opened = fs.openFile(file).withFileStatus(status).build().get()
    opened.readFully(0, new Array[Byte](1))
    opened.close()
    assert(SlowRequests.count("status") == 1 && SlowRequests.count("read") == before + 1)
    assert(fs.rename(file, new Path(root, "a/c")) && fs.delete(new Path(root, "a"), true))
    assert(SlowRequests.count("rename") == 1 && SlowRequests.count("delete") == 1)
  }

  test("a file is not written whole while writes are held") {
    SlowRequests.holdWrites()
    val out = fs.create(new Path(root, "held"))
    val closing = CompletableFuture.runAsync(() => out.close())
    try assertThrows[TimeoutException](closing.get(100, TimeUnit.MILLISECONDS))
    finally SlowRequests.releaseWrites()
    closing.get(10, TimeUnit.SECONDS)
  }

  test("a request takes as long as it was told") {
    SlowRequests.setLatencyMs(50)
    try {
      val began = System.nanoTime()
      fs.exists(root)
      assert(System.nanoTime() - began >= 50000000L)
    } finally SlowRequests.setLatencyMs(0)
  }
}
