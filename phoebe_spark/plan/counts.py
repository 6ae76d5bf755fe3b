"""How many partitions the rows of each node come in, where the plan tells."""

from __future__ import annotations

import re
from collections.abc import Mapping

from phoebe_spark.plan.live import Place
from phoebe_spark.plan.nodes import is_broadcast, is_shuffle, partitions

LIMITS = frozenset({"TakeOrderedAndProject", "CollectLimit", "CollectTail"})
_SPLITS = re.compile(r"splits=(?:Some\()?(\d+)")
_COALESCE = re.compile(r"Coalesce (\d+)")


def partition_counts(places: Mapping[int, Place]) -> dict[int, int | None]:
    """By node index; None where the plan does not tell."""
    counts: dict[int, int | None] = {}
    for index in reversed(list(places)):
        counts[index] = _count(places[index], places, counts)
    return counts


def _count(
    place: Place, places: Mapping[int, Place], counts: Mapping[int, int | None]
) -> int | None:
    """How many partitions the operator's output has; None where the plan does not tell."""
    node = place.node
    if is_shuffle(node):
        return partitions(node)
    if node.kind in LIMITS or node.kind == "Scan OneRowRelation":
        return 1
    if node.kind == "LocalTableScan":
        return 0 if "<empty>" in node.text else None
    if node.kind == "EmptyRelation":
        return 0
    if node.kind == "Range":
        found = _SPLITS.search(node.text)
        return int(found.group(1)) if found else None
    below = [
        partitions(place_.node) if is_shuffle(place_.node) else counts.get(read)
        for read in place.reads
        if (place_ := places[read]).node.kind != "Subquery" and not is_broadcast(place_.node)
    ]
    if not below or (None in below) or place.coalesced:
        return None
    known = [count for count in below if count is not None]
    if node.kind == "Coalesce" and (found := _COALESCE.search(node.text)):
        return min(int(found.group(1)), known[0])
    if node.kind == "Union":  # of single partitions: one, since SPARK-52921 (4.1)
        return sum(known) if any(count != 1 for count in known) else 1
    if node.kind == "CartesianProduct":
        return known[0] * known[-1]
    return max(known)
