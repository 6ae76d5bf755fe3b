package phoebe.store

import java.nio.file.{Files, LinkOption, Path => LocalPath, Paths}
import java.nio.file.attribute.PosixFilePermission
import java.util.{Set => JavaSet}

import scala.util.Try

import org.apache.hadoop.fs.{CommonPathCapabilities, FileSystem, Path}
import org.apache.hadoop.security.UserGroupInformation
import phoebe.files.HadoopFiles

/**
 * Which users can have written a file or directory, by the owner and mode in its file system.
 *
 * @param isOwn
 *   whether it belongs to this process's user, as the file system sees it
 * @param othersMayWrite
 *   whether its group or everybody may write to it
 * @param isLink
 *   whether it is a symbolic link
 */
private[phoebe] final case class Rights(
    owner: String,
    isOwn: Boolean,
    othersMayWrite: Boolean,
    isLink: Boolean
) {

  /** Why it is not trusted; None if it is. */
  def problem(followLinks: Boolean): Option[String] =
    if (isLink && !followLinks) Some("is a symbolic link")
    else if (!isOwn) Some(s"belongs to $owner")
    else if (othersMayWrite) Some("may be written by its group or by everybody")
    else None
}

private[phoebe] object Rights {
  import HadoopFiles._

  /**
   * None where the file system has no owners and modes: the connectors of object stores make them up.
   * There the store's own policies say who may write.
   *
   * @throws java.io.FileNotFoundException
   *   if there is no such file
   */
  def of(fs: FileSystem, path: Path, followLinks: Boolean): Option[Rights] =
    if (isLocal(fs)) ofLocal(Paths.get(path.toUri.getPath), followLinks)
    else if (!tells(fs, path)) None
    else {
      val status = fs.getFileStatus(path)
      val user = UserGroupInformation.getCurrentUser.getShortUserName
      try {
        val mode = status.getPermission.toShort
        Some(Rights(status.getOwner, status.getOwner == user, (mode & OthersWrite) != 0, false))
      } catch { case _: IllegalArgumentException | _: UnsupportedOperationException => None }
    }

  private val OthersWrite = Integer.parseInt("022", 8)

  private def tells(fs: FileSystem, path: Path): Boolean =
    !appearsAtClose(fs) && !Directories(fs.getUri.getScheme) &&
      fs.hasPathCapability(path, CommonPathCapabilities.FS_PERMISSIONS)

  /** Their owners are ids of a directory service, not Hadoop's user names. */
  private val Directories = Set("abfs", "abfss", "wasb", "wasbs")

  /** Compares user numbers: a container's user may have no name. None on a system without them. */
  private def ofLocal(path: LocalPath, followLinks: Boolean): Option[Rights] = {
    val options = if (followLinks) Nil else Seq(LinkOption.NOFOLLOW_LINKS)
    ownUid.map { own =>
      try {
        val found = Files.readAttributes(path, "unix:uid,owner,permissions", options: _*)
        val may = found.get("permissions").asInstanceOf[JavaSet[PosixFilePermission]]
        Rights(
          found.get("owner").toString,
          found.get("uid").asInstanceOf[Number].longValue == own,
          may.contains(PosixFilePermission.GROUP_WRITE) ||
            may.contains(PosixFilePermission.OTHERS_WRITE),
          Files.isSymbolicLink(path)
        )
      } catch {
        case _: java.nio.file.NoSuchFileException =>
          throw new java.io.FileNotFoundException(s"$path does not exist")
      }
    }
  }

  private lazy val ownUid: Option[Long] = Try {
    val uid = new com.sun.security.auth.module.UnixSystem().getUid
    Files.getAttribute(Paths.get("/"), "unix:uid") // supported
    uid
  }.toOption
}
