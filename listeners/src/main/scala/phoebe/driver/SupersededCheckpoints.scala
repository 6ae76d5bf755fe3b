package phoebe.driver

import scala.collection.mutable

import phoebe.store.CheckpointPlace

/**
 * What this application has committed. A query that it runs again and again is written each time:
 * what is freed, and what losing an executor costs, is a matter of each run. So that the store does
 * not grow with the runs, only the last one of each fingerprint is kept for the next submission; an
 * earlier one goes once Spark has forgotten its shuffle, when nothing here can read it any more.
 */
private[phoebe] final class SupersededCheckpoints {

  /** By fingerprint, in the order in which they were committed. */
  private val committed = mutable.Map.empty[String, Vector[CheckpointPlace]]

  /** Those that were not given up at the last moment. */
  private val standing = mutable.Set.empty[CheckpointPlace]
  private val unread = mutable.Set.empty[CheckpointPlace]

  /** Superseded, and not known to be gone: another application may read them. */
  private val leaving = mutable.Set.empty[CheckpointPlace]

  def add(place: CheckpointPlace): Unit = synchronized {
    committed(place.fingerprint) = of(place.fingerprint) :+ place
  }

  /** Its shuffle's readers go to it from now on. */
  def stands(place: CheckpointPlace): Unit = synchronized(standing += place)

  /** It was given up after all, and is removed. */
  def withdraw(place: CheckpointPlace): Unit = synchronized(drop(place))

  /** Spark has forgotten the shuffle: no reader will come. */
  def forgotten(place: CheckpointPlace): Unit = synchronized {
    if (of(place.fingerprint).contains(place)) unread += place
  }

  /** Those that nothing here reads and that a later one stands for, until they are gone. */
  def superseded(): Set[CheckpointPlace] = synchronized {
    val found = committed.valuesIterator.flatMap { places =>
      places.take(places.lastIndexWhere(standing)).filter(unread)
    }.toSet
    found.foreach(drop)
    leaving ++= found
    leaving.toSet
  }

  def gone(places: Set[CheckpointPlace]): Unit = synchronized(leaving --= places)

  /** All that there may still be in the store. */
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
