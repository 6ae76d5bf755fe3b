package phoebe.store

import java.io.{ByteArrayInputStream, ByteArrayOutputStream, EOFException, IOException}
import java.nio.file.{Files, Path => JPath}

import scala.util.Random

import org.apache.hadoop.conf.Configuration
import org.apache.hadoop.fs.Path
import org.scalatest.funsuite.AnyFunSuite

import org.apache.spark.network.shuffle.checksum.ShuffleChecksumHelper

import phoebe.files.{DamagedFileException, HadoopFiles}
import phoebe.testing.FaultyFileSystem

/** A pack gives back what went in, or says that it is damaged: never anything else. */
class PackSuite extends AnyFunSuite {
  private val conf = new Configuration
  private val chunk = 64

  /** Two map tasks and more, five partitions; empty segments, segments of several chunks. */
  private val shapes: Seq[Seq[Seq[Long]]] = Seq(
    Seq(Seq(0L)),
    Seq(Seq(1L)),
    Seq(Seq(0L, 0L, 0L), Seq(0L, 0L, 0L)),
    Seq(Seq(64L, 0L, 65L, 63L)),
    Seq(Seq(1000L, 3L, 0L, 128L, 7L), Seq(0L, 64L, 0L, 1L, 0L), Seq(5L, 5L, 0L, 0L, 300L))
  )

  private final class Written(val directory: JPath, val pack: Pack, maps: Seq[Seq[Array[Byte]]]) {
    val file: JPath = directory.resolve(pack.file)

    def expected(map: Int, partition: Int): Array[Byte] = maps(map)(partition)
    def partitions: Int = maps.head.size

    def request(maps: Set[Int], from: Int, until: Int, sequential: Boolean): PackReadRequest = {
      val blocks = maps.toSeq.map(m => (from until until).count(expected(m, _).nonEmpty)).sum
      PackReadRequest(pack, maps.map(_.toLong), from, until, blocks, sequential)
    }

    def read(
        request: PackReadRequest,
        held: Map[String, Array[Byte]] = Map.empty
    ): Seq[(Long, Int, Seq[Byte])] = {
      val reader = new PackReader(new Path(directory.toUri), conf, held)
      try reader
          .read(Seq(request))
          .map(s => (s.mapId, s.partition, s.stream.readAllBytes().toSeq))
          .toList
      finally reader.close()
    }

    def verify(): Option[String] =
      PackChecks.verify(place, conf, pack)

    def look(): Option[String] = PackChecks.footers(place, conf, Seq(pack))

    def place: CheckpointPlace =
      CheckpointPlace(directory.getParent.getParent.getParent.toUri.toString, "f", "a")
  }

  private def written(lengths: Seq[Seq[Long]], seed: Int = 1): Written = {
    val random = new Random(seed)
    val maps = lengths.map(_.map(n => Array.fill(n.toInt)(random.nextInt().toByte)))
    val directory =
      Files.createDirectories(Files.createTempDirectory("phoebe-pack").resolve("data/f/a"))
    val out = new ByteArrayOutputStream
    val sources = maps.zipWithIndex.map { case (segments, i) =>
      PackSource(
        i,
        segments.map(_.length.toLong).toArray,
        () => new ByteArrayInputStream(segments.flatten.toArray)
      )
    }
    val pack = PackWriter.write("m0-7.pack", sources.toIndexedSeq, out, chunk)
    assert(pack.bytes == out.size)
    Files.write(directory.resolve(pack.file), out.toByteArray)
    new Written(directory, pack, maps)
  }

  test("any rectangle of map tasks and partitions reads back as it was written") {
    shapes.zipWithIndex.foreach { case (shape, seed) =>
      val it = written(shape, seed)
      for {
        sequential <- Seq(true, false)
        from <- 0 until it.partitions
        until <- from + 1 to it.partitions
        maps <- shape.indices.toSet.subsets()
        if maps.nonEmpty
      } {
        val expected = for {
          partition <- from until until
          map <- maps.toSeq.sorted
          bytes = it.expected(map, partition)
          if bytes.nonEmpty
        } yield (map.toLong, partition, bytes.toSeq)
        assert(it.read(it.request(maps, from, until, sequential)) == expected, s"$shape $maps")
      }
    }
  }

  test("what is held is read from memory, and verified there") {
    val it = written(shapes.last)
    val bytes = Files.readAllBytes(it.file)
    for (sequential <- Seq(true, false)) {
      val request = it.request(Set(0, 2), 1, 5, sequential)
      Files.write(it.file, bytes)
      val expected = it.read(request)
      Files.delete(it.file)
      assert(it.read(request, Map(it.pack.file -> bytes)) == expected)
      val changed = bytes.updated(it.pack.footerOffset.toInt - 20, 7.toByte)
      assertThrows[DamagedFileException](it.read(request, Map(it.pack.file -> changed)))
    }
  }

  test("a decoder that leaves bytes unread does not disturb what follows") {
    val it = written(shapes.last)
    val reader = new PackReader(new Path(it.directory.toUri), conf)
    val segments = reader.read(Seq(it.request(Set(0, 1, 2), 0, 5, sequential = true)))
    val firsts = segments.map(s => (s.mapId.toInt, s.partition, s.stream.read().toByte)).toList
    assert(firsts.size == 9)
    firsts.foreach { case (map, partition, byte) =>
      assert(byte == it.expected(map, partition).head)
    }
  }

  test("a pack that is whole passes the check") {
    shapes.foreach(shape => assert(written(shape).verify().isEmpty, shape))
  }

  test("each flipped byte is found by the check, and never read as data") {
    val it = written(shapes.last)
    val whole = Files.readAllBytes(it.file)
    whole.indices.foreach { i =>
      val broken = whole.clone()
      broken(i) = (broken(i) ^ 0x10).toByte
      Files.write(it.file, broken)
      assert(it.verify().isDefined, s"byte $i")
      for (sequential <- Seq(true, false)) {
        val read =
          try Some(it.read(it.request(Set(0, 1, 2), 0, 5, sequential)))
          catch { case _: DamagedFileException => None }
        read.foreach { segments =>
          assert(segments.size == 9)
          segments.foreach { case (map, partition, bytes) =>
            assert(bytes == it.expected(map.toInt, partition).toSeq, s"byte $i")
          }
        }
      }
    }
  }

  test("a file that is cut off or too long is damage") {
    val it = written(shapes.last)
    val whole = Files.readAllBytes(it.file)
    (0 until whole.length by 37).foreach { length =>
      Files.write(it.file, whole.take(length))
      assert(it.verify().isDefined, s"$length bytes")
      assert(it.look().isDefined, s"$length bytes")
    }
    Files.write(it.file, whole :+ 0.toByte)
    assert(it.verify().isDefined && it.look().isDefined)
    Files.delete(it.file)
    assert(it.verify().exists(_.contains("missing")))
  }

  test("a terabyte is looked at by its footers, in the time of a few reads") {
    val terabyte = 1L << 40
    val packs = 1024
    val directory =
      Files.createDirectories(Files.createTempDirectory("phoebe-sparse").resolve("data/f/a"))
    val found = (0 until packs).map { i =>
      val body = terabyte / packs
      val footer = PackWriter.encodeFooter(chunk, 1, Array(0L, body))
      val file = directory.resolve(s"m$i-1.pack")
      val out = new java.io.RandomAccessFile(file.toFile, "rw")
      try {
        out.seek(body) // a hole before it
        out.write(footer)
      } finally out.close()
      val crc = java.nio.ByteBuffer.wrap(footer).getInt(footer.length - 4)
      Pack(file.getFileName.toString, body + footer.length, body, crc, chunk, Array(i.toLong))
    }
    val place = CheckpointPlace(directory.getParent.getParent.getParent.toUri.toString, "f", "a")
    val began = System.nanoTime()
    assert(PackChecks.footers(place, conf, found).isEmpty)
    assert(System.nanoTime() - began < 10e9, "10 s, where a disk reads a terabyte in an hour")
    val last = directory.resolve(found.last.file)
    val out = new java.io.RandomAccessFile(last.toFile, "rw")
    try {
      out.seek(found.last.footerOffset + 20)
      out.write(1)
    } finally out.close()
    assert(PackChecks.footers(place, conf, found).exists(_.contains(found.last.file)))
    Files.delete(last)
    assert(PackChecks.footers(place, conf, found).exists(_.contains("missing")))
    found.init.foreach(pack => Files.delete(directory.resolve(pack.file)))
  }

  test("errors that look like damage are the store's, where the file is whole") {
    val whole = written(Seq(Seq(100L, 200L)))
    val control = Files.createTempFile("faulty", "")
    val faulty = FaultyFileSystem.configured(control)
    val place =
      whole.place.copy(rootUri = whole.place.rootUri.replaceFirst("^file:/*", "faulty:///"))
    def verify() = PackChecks.verify(place, faulty, whole.pack)
    Seq("eof", "gone", "fail").foreach { trouble =>
      Files.writeString(control, s"read $trouble")
      Seq(
        () => verify(),
        () => PackChecks.footers(place, faulty, Seq(whole.pack))
      ).foreach { look =>
        val e = intercept[IOException](look())
        assert(!HadoopFiles.isDamage(e), trouble)
      }
    }
    Files.writeString(control, "")
    assert(verify().isEmpty)
    Files.delete(whole.directory.resolve(whole.pack.file))
    assert(verify().exists(_.contains("missing")))
  }

  test("another pack under the same name is damage") {
    val it = written(shapes.last, seed = 1)
    val other = written(shapes.last, seed = 2)
    val longer = written(shapes.last.map(_.map(_ + 1)), seed = 1)
    Files.copy(longer.file, it.file, java.nio.file.StandardCopyOption.REPLACE_EXISTING)
    assert(it.verify().isDefined && it.look().isDefined)
    // As long as the file that was committed, with a footer that fits itself.
    val turned = written(Seq(Seq(4L, 8L)))
    Files.copy(
      written(Seq(Seq(8L, 4L))).file,
      turned.file,
      java.nio.file.StandardCopyOption.REPLACE_EXISTING
    )
    assert(turned.look().exists(_.contains("not the file that was committed")))
    // The same lengths with other contents have the same footer: whoever can put those in place,
    // with checksums that fit, can write the manifest as well.
    assert(other.verify().isEmpty)
  }

  test("blocks that were promised and are not there are damage") {
    val it = written(shapes.last)
    val request = it.request(Set(0, 1), 0, 5, sequential = true)
    assertThrows[DamagedFileException](it.read(request.copy(blocks = request.blocks + 1)))
  }

  test("a source that is shorter than its lengths fails the writer") {
    val source =
      PackSource(1, Array(10L), () => new ByteArrayInputStream(new Array[Byte](9)))
    assertThrows[EOFException] {
      PackWriter.write("m", IndexedSeq(source), new ByteArrayOutputStream, chunk)
    }
  }

  test("a source that is not what Spark wrote fails the writer") {
    val noted = Seq("ADLER32", "CRC32", "CRC32C").map { algorithm =>
      val sums = ShuffleChecksumHelper.createPartitionChecksums(3, algorithm)
      sums(0).update(Array[Byte](1, 2))
      sums(2).update(Array.tabulate[Byte](chunk + 1)(_.toByte))
      SegmentChecksums(algorithm, sums.map(_.getValue))
    }
    val bytes = Array[Byte](1, 2) ++ Array.tabulate[Byte](chunk + 1)(_.toByte)
    def write(bytes: Array[Byte], noted: SegmentChecksums) = PackWriter.write(
      "m",
      IndexedSeq(PackSource(
        1,
        Array(2L, 0L, chunk + 1L),
        () => new ByteArrayInputStream(bytes),
        Some(noted)
      )),
      new ByteArrayOutputStream,
      chunk
    )
    noted.foreach { sums =>
      write(bytes, sums)
      bytes.indices.foreach { i =>
        val changed = bytes.updated(i, (bytes(i) ^ 8).toByte)
        val e = intercept[DamagedFileException](write(changed, sums))
        assert(e.getMessage.contains(s"partition ${if (i < 2) 0 else 2}"), s"byte $i")
      }
    }
  }

  test("memory is bounded: a segment is handed out in chunks") {
    val it = written(Seq(Seq(64L * 1000)))
    val reader = new PackReader(new Path(it.directory.toUri), conf)
    val stream = reader.read(Seq(it.request(Set(0), 0, 1, sequential = true))).next().stream
    assert(stream.read(new Array[Byte](10000)) == chunk)
  }
}
