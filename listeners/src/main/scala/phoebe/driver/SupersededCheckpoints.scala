package phoebe.driver

import scala.collection.mutable

import phoebe.store.CheckpointPlace

/**
 * The checkpoints that this application has committed. A query that runs again is written again,
 * because each run has disks to free and executors to lose. So that the store does not grow with the
 * runs, only the last checkpoint of each fingerprint is kept for the next submission. An earlier one
 * is removed once Spark has forgotten its shuffle, when no task can read it any more.
 */
private[phoebe] final class SupersededCheckpoints {

  /** By fingerprint, in the order in which they were committed. */
  private val committed = mutable.Map.empty[String, Vector[CheckpointPlace]]

  /** Those that their shuffles' readers use: not given up during the commit. */
  private val standing = mutable.Set.empty[CheckpointPlace]
  private val unread = mutable.Set.empty[CheckpointPlace]

  /** Superseded, and not yet removed: another application may read them. */
  private val leaving = mutable.Set.empty[CheckpointPlace]

  def add(place: CheckpointPlace): Unit = synchronized {
    committed(place.fingerprint) = of(place.fingerprint) :+ place
  }

  /** Its shuffle's readers go to the store from now on. */
  def stands(place: CheckpointPlace): Unit = synchronized(standing += place)

  /** It was given up after all, and is removed. */
  def withdraw(place: CheckpointPlace): Unit = synchronized(drop(place))

  /** Spark has forgotten the shuffle: there will be no more readers. */
  def forgotten(place: CheckpointPlace): Unit = synchronized {
    if (of(place.fingerprint).contains(place)) unread += place
  }

  /** Those without readers here and with a later checkpoint, until they are removed. */
  def superseded(): Set[CheckpointPlace] = synchronized {
    val found = committed.valuesIterator.flatMap { places =>
      places.take(places.lastIndexWhere(standing)).filter(unread)
    }.toSet
    found.foreach(drop)
    leaving ++= found
    leaving.toSet
  }

  def gone(places: Set[CheckpointPlace]): Unit = synchronized(leaving --= places)

  /** All checkpoints of this application that may still be in the store. */
  def all: Set[CheckpointPlace] = synchronized {
    committed.valuesIterator.flatten.toSet ++ leaving
  }

  private def of(fingerprint: String) = committed.getOrElse(fingerprint, Vector.empty)

  private def drop(place: CheckpointPlace): Unit = {
    unread -= place
    standing -= place
    of(place.fingerprint).filterNot(_ == place) match {
      case Vector() => committed -= place.fingerprint
      case left => committed(place.fingerprint) = left
    }
  }
}
