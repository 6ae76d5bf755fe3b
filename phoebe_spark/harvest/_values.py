"""Typed access to decoded JSON: a missing value, or one of another type, reads as absent.

Event logs come from other Spark versions, other vendors and broken disks.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

JsonObject = Mapping[str, Any]

UNREADABLE = (
    TypeError, ValueError, LookupError, AttributeError, OverflowError, RecursionError
)  # fmt: skip
"""The errors that code raises on JSON of a shape that no Spark writes."""

_NOTHING: JsonObject = {}
_LATEST_MS = 253_402_300_799_000  # year 9999: Python's last
_LARGEST = 2**63 - 1


def obj(source: JsonObject, key: str) -> JsonObject:
    value = source.get(key)
    return value if isinstance(value, dict) else _NOTHING


def items(source: JsonObject, key: str) -> list[Any]:
    value = source.get(key)
    return value if isinstance(value, list) else []


def integer(value: object) -> int | None:
    """An integer that fits a table's column; strings of digits count (SQL metrics are strings)."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, str):
        try:
            value = int(value)
        except ValueError:
            return None
    if isinstance(value, float):
        if not abs(value) < _LARGEST:  # infinite, too large, not a number
            return None
        value = int(value)
    if not isinstance(value, int) or abs(value) > _LARGEST:
        return None
    return value


def count(value: object) -> int:
    """A size, number or duration: absent and negative values are 0."""
    if value.__class__ is int and 0 <= value <= _LARGEST:
        return value
    found = integer(value)
    return max(0, found) if found is not None else 0


def number(value: object) -> float | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return None
    return None


def text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def timestamp(ms: int | None) -> datetime | None:
    """Milliseconds since the epoch as a UTC timestamp; None outside the calendar."""
    if ms is None or not 0 <= ms <= _LATEST_MS:
        return None
    return datetime.fromtimestamp(ms / 1000, tz=UTC)


def time_ms(source: JsonObject, key: str) -> int | None:
    """A time field in milliseconds since the epoch; 0 and less mean "not yet" in Spark's events."""
    found = integer(source.get(key))
    return found if found is not None and 0 < found <= _LATEST_MS else None
