package org.apache.spark.sql.execution.phoebe

import java.io.{ByteArrayInputStream, ByteArrayOutputStream, EOFException}
import java.nio.file.{Files, Path => JPath}

import scala.util.Random

import org.apache.hadoop.conf.Configuration
import org.apache.hadoop.fs.Path
import org.scalatest.funsuite.AnyFunSuite

/** A copied map file gives back what went in, or says that it is damaged: never anything else. */
class MapFileFormatSuite extends AnyFunSuite {
  private val conf = new Configuration
  private val chunk = 64

  private def content(lengths: Seq[Long], seed: Int): Array[Byte] = {
    val bytes = new Array[Byte](lengths.sum.toInt)
    new Random(seed).nextBytes(bytes)
    bytes
  }

  /** Writes one map output into a fresh directory, as the write processor does. */
  private def written(lengths: Seq[Long], seed: Int = 1): (JPath, MapFile, Array[Byte]) = {
    val directory = Files.createTempDirectory("phoebe-map-file")
    val data = content(lengths, seed)
    val out = new ByteArrayOutputStream
    val index = MapFileIndex.copy(new ByteArrayInputStream(data), lengths.toArray, out, chunk)
    assert(out.toByteArray.sameElements(data))
    val encoded = MapFileIndex.encode(index)
    if (data.nonEmpty) Files.write(directory.resolve(CheckpointStore.dataName(0, 7)), data)
    Files.write(directory.resolve(CheckpointStore.indexName(0, 7)), encoded)
    (directory, MapFile(0, 7, Some(MapFileIndex.crcOfEncoded(encoded))), data)
  }

  private def verify(directory: JPath, file: MapFile, bytes: Long): Option[String] =
    CheckpointStore.verify(new Path(directory.toUri), conf, file, bytes)

  private val shapes: Seq[Seq[Long]] = Seq(
    Seq(0L),
    Seq(1L),
    Seq(0L, 0L, 0L),
    Seq(64L, 0L, 65L, 63L),
    Seq(1000L, 3L, 0L, 128L, 7L)
  )

  test("segments read back as they were written, in any order of partitions") {
    shapes.filter(_.sum > 0).zipWithIndex.foreach { case (lengths, seed) =>
      val (directory, file, data) = written(lengths, seed)
      val path = new Path(directory.toUri)
      val fs = CheckpointStore.fileSystem(path, conf)
      val index = CheckpointStore.readIndex(fs, path, file)
      val reader = new MapFileReader(fs, new Path(path, CheckpointStore.dataName(0, 7)), index)
      new Random(seed).shuffle(lengths.indices.toList).foreach { partition =>
        val expected =
          data.slice(index.offsets(partition).toInt, index.offsets(partition + 1).toInt)
        assert(
          reader.segment(partition).readAllBytes().sameElements(expected),
          s"$lengths/$partition"
        )
      }
      reader.close()
    }
  }

  test("whole files verify") {
    shapes.foreach { lengths =>
      val (directory, file, _) = written(lengths)
      assert(verify(directory, file, lengths.sum).isEmpty, lengths)
    }
  }

  test("any flipped byte of the data or of the index is found") {
    val lengths = Seq(100L, 0L, 70L)
    Seq(CheckpointStore.dataName(0, 7), CheckpointStore.indexName(0, 7)).foreach { name =>
      val (directory, file, _) = written(lengths)
      val target = directory.resolve(name)
      val whole = Files.readAllBytes(target)
      whole.indices.foreach { i =>
        val flipped = whole.clone()
        flipped(i) = (flipped(i) ^ 1).toByte
        Files.write(target, flipped)
        assert(verify(directory, file, lengths.sum).isDefined, s"byte $i of $name")
      }
    }
  }

  test("truncated, grown and missing files are found") {
    val lengths = Seq(100L, 70L)
    Seq(CheckpointStore.dataName(0, 7), CheckpointStore.indexName(0, 7)).foreach { name =>
      val (directory, file, _) = written(lengths)
      val target = directory.resolve(name)
      val whole = Files.readAllBytes(target)
      Seq(0, 1, whole.length / 2, whole.length - 1).foreach { size =>
        Files.write(target, whole.take(size))
        assert(verify(directory, file, lengths.sum).isDefined, s"$name cut to $size bytes")
      }
      Files.write(target, whole :+ 0.toByte)
      assert(verify(directory, file, lengths.sum).isDefined, s"$name one byte longer")
      Files.delete(target)
      assert(verify(directory, file, lengths.sum).isDefined, s"$name missing")
    }
  }

  test("another attempt's index is refused although it is whole") {
    val (directory, file, _) = written(Seq(10L, 20L), seed = 1)
    val (other, _, _) = written(Seq(10L, 20L), seed = 2)
    val name = CheckpointStore.indexName(0, 7)
    Files.write(directory.resolve(name), Files.readAllBytes(other.resolve(name)))
    assert(verify(directory, file, 30L).isDefined)
  }

  test("a source shorter than its index says fails the copy") {
    intercept[EOFException] {
      MapFileIndex.copy(
        new ByteArrayInputStream(new Array[Byte](9)),
        Array(10L),
        new ByteArrayOutputStream,
        chunk
      )
    }
  }
}
