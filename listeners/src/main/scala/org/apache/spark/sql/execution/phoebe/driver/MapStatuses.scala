// In Spark's package for MapStatus (private[spark]).
package org.apache.spark.sql.execution.phoebe.driver

import java.io.{
  ByteArrayInputStream,
  ByteArrayOutputStream,
  Externalizable,
  ObjectInputStream,
  ObjectOutputStream
}
import java.util.Base64
import java.util.zip.{GZIPInputStream, GZIPOutputStream}

import org.apache.spark.scheduler.MapStatus
import phoebe.files.DamagedFileException
import phoebe.store.Manifest

/**
 * Map statuses as a manifest has them: each in Spark's own form (`Externalizable`), one after the
 * other. That is a byte for each partition, or a bitmap and an average if there are very many. A
 * manifest is read only by the version of Spark that wrote it.
 */
object MapStatuses {

  def encode(statuses: Seq[MapStatus]): String = {
    val bytes = new ByteArrayOutputStream
    val out = new ObjectOutputStream(new GZIPOutputStream(bytes))
    statuses.foreach { status =>
      out.writeUTF(status.getClass.getName)
      status.asInstanceOf[Externalizable].writeExternal(out)
    }
    out.close()
    Base64.getEncoder.encodeToString(bytes.toByteArray)
  }

  /** Map statuses with their sizes, by map index. Their locations are no longer valid. */
  def of(manifest: Manifest): Array[MapStatus] = {
    val bytes = Base64.getDecoder.decode(manifest.statuses)
    val in = new ObjectInputStream(new GZIPInputStream(new ByteArrayInputStream(bytes)))
    Array.fill(manifest.numMaps) {
      val made = Classes.get(in.readUTF()).getDeclaredConstructor()
      made.setAccessible(true)
      val status = made.newInstance()
      status.readExternal(in)
      status.asInstanceOf[MapStatus]
    }
  }

  /** The only classes that a manifest can make an instance of. */
  private object Classes {
    private val known = Seq("CompressedMapStatus", "HighlyCompressedMapStatus").map { name =>
      val full = s"org.apache.spark.scheduler.$name"
      full -> Class.forName(full).asSubclass(classOf[Externalizable])
    }.toMap

    def get(name: String): Class[_ <: Externalizable] =
      known.getOrElse(name, throw new DamagedFileException(s"unknown kind of map status: $name"))
  }
}
