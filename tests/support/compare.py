"""Compares query results as multisets of rows: floats to 1e-9 relative, all else exactly.

A row is split into its exact part (structure, with floats blanked) and its floats. Rows are
grouped by the exact part; inside a group, floats are matched one to one within the tolerance.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RELATIVE_TOLERANCE = 1e-9
_GREEDY_LIMIT = 2000  # above it, sorted order alone must match (greedy matching is quadratic)


@dataclass(frozen=True, slots=True)
class Difference:
    """Why two results differ; falsy when they do not."""

    message: str = ""

    def __bool__(self) -> bool:
        return bool(self.message)


def _split(value: Any, floats: list[float]) -> Any:
    """``value`` made hashable with its floats blanked and appended to ``floats``."""
    if isinstance(value, float):
        floats.append(value)
        return "<float>"
    if isinstance(value, dict):
        return ("<struct>", *((k, _split(v, floats)) for k, v in value.items()))
    if isinstance(value, list | tuple):
        return ("<list>", *(_split(v, floats) for v in value))
    return value


def _close(a: Sequence[float], b: Sequence[float], tolerance: float) -> bool:
    return all(
        (math.isnan(x) and math.isnan(y)) or math.isclose(x, y, rel_tol=tolerance)
        for x, y in zip(a, b, strict=True)
    )


def _sort_key(floats: Sequence[float]) -> tuple[tuple[bool, float], ...]:
    # Rounded, so that the last digits of one column do not decide the order of the next.
    return tuple((math.isnan(x), 0.0 if math.isnan(x) else float(f"{x:.6e}")) for x in floats)


def _match(left: list[tuple[float, ...]], right: list[tuple[float, ...]], tolerance: float) -> bool:
    left, right = sorted(left, key=_sort_key), sorted(right, key=_sort_key)
    if all(_close(a, b, tolerance) for a, b in zip(left, right, strict=True)):
        return True
    if len(left) > _GREEDY_LIMIT:
        return False
    rest = list(right)
    for row in left:
        hit = next((i for i, other in enumerate(rest) if _close(row, other, tolerance)), None)
        if hit is None:
            return False
        del rest[hit]
    return True


def compare_rows(
    expected: Iterable[Sequence[Any]],
    actual: Iterable[Sequence[Any]],
    tolerance: float = RELATIVE_TOLERANCE,
) -> Difference:
    """A falsy ``Difference`` when both are the same multiset of rows.

    >>> bool(compare_rows([(1, 0.1)], [(1, 0.1 + 1e-15)]))
    False
    """
    groups: dict[Any, tuple[list[tuple[float, ...]], list[tuple[float, ...]]]]
    groups = defaultdict(lambda: ([], []))
    counts = [0, 0]
    for side, rows in enumerate((expected, actual)):
        for row in rows:
            floats: list[float] = []
            exact = tuple(_split(v, floats) for v in row)
            groups[exact][side].append(tuple(floats))
            counts[side] += 1
    if counts[0] != counts[1]:
        return Difference(f"{counts[0]} rows expected, {counts[1]} found")
    for exact, (left, right) in groups.items():
        if len(left) != len(right):
            return Difference(f"row {exact}: {len(left)} times expected, {len(right)} found")
        if left and left[0] and not _match(left, right, tolerance):
            return Difference(f"row {exact}: floats differ, {left[:3]} against {right[:3]}")
    return Difference()


def read_rows(path: Path) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Column names and rows of a Parquet directory that Spark wrote.

    Raises ``FileNotFoundError`` when it has no ``_SUCCESS``: a job that died wrote no result.
    """
    import pyarrow.parquet as pq

    if not (path / "_SUCCESS").exists():
        raise FileNotFoundError(f"{path} has no _SUCCESS: no complete result")
    parts = [pq.read_table(part) for part in sorted(path.glob("part-*.parquet"))]
    names = parts[0].column_names if parts else []
    rows: list[tuple[Any, ...]] = []
    for part in parts:
        rows.extend(zip(*(column.to_pylist() for column in part.columns), strict=True))
    return names, rows


def compare_results(
    expected: Path, actual: Path, tolerance: float = RELATIVE_TOLERANCE
) -> Difference:
    """Compares two Parquet result directories, column names included."""
    names, rows = read_rows(expected)
    other_names, other_rows = read_rows(actual)
    if names != other_names:
        return Difference(f"columns {names} expected, {other_names} found")
    return compare_rows(rows, other_rows, tolerance)
