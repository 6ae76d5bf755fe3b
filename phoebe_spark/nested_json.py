"""JSON of any depth: a physical plan is nested twice as deep as it has operators above each other.

orjson stops at 1,024 levels when it reads and at 254 when it writes; queries that build on their
own result in a loop have deeper plans. What orjson refuses is read by ijson, which has no limit
(and replaces lone surrogates), and written by `dumps`. Neither recurses.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import orjson

# How orjson says what ijson reads: too deep, half of a surrogate pair, beyond a double.
_REFUSED = re.compile("limit|surrogate|infinity")


def loads(text: bytes) -> Any:
    """The value of a JSON text. Raises ``orjson.JSONDecodeError`` where it is none."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        if not _REFUSED.search(str(error)):
            raise
        from ijson.common import JSONError

        try:
            return _built(text)
        except (JSONError, ValueError, ArithmeticError):
            raise error from None


def _built(text: bytes) -> Any:
    import ijson

    root: list[Any] = []
    stack: list[Any] = [root]
    keys: list[str] = [""]  # what comes next in each open object
    for kind, value in ijson.basic_parse(io.BytesIO(text)):
        if kind == "map_key":
            keys[-1] = value
            continue
        if kind in ("end_map", "end_array"):
            stack.pop()
            keys.pop()
            continue
        made = {"start_map": dict, "start_array": list}.get(kind)
        if made is not None:
            value = made()
        elif isinstance(value, Decimal) or (kind == "number" and abs(value) >= 1 << 64):
            value = float(value)
        if isinstance(stack[-1], dict):
            stack[-1][keys[-1]] = value
        else:
            stack[-1].append(value)
        if made is not None:
            stack.append(value)
            keys.append("")
    return root[0]


def dumps(value: object) -> bytes:
    """``value`` as JSON. Raises ``TypeError`` for what JSON has no form for."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return b"".join(_pieces(value))


class _Raw(bytes):
    """JSON that is written already."""


def _pieces(value: object) -> Iterator[bytes]:
    todo: list[object] = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, _Raw):
            yield item
        elif isinstance(item, dict):
            todo.append(_Raw(b"}"))
            for n, (key, inner) in enumerate(reversed(item.items())):
                comma = b"," if n < len(item) - 1 else b""
                todo += [inner, _Raw(comma + orjson.dumps(key) + b":")]
            todo.append(_Raw(b"{"))
        elif isinstance(item, list):
            todo.append(_Raw(b"]"))
            for n, inner in enumerate(reversed(item)):
                todo += [inner, _Raw(b"," if n < len(item) - 1 else b"")]
            todo.append(_Raw(b"["))
        else:
            yield orjson.dumps(item)
