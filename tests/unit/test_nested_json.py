"""JSON of any depth is read and written; what is not JSON is refused as before."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoebe_spark import nested_json
from phoebe_spark.plan.nodes import parse_plan
from phoebe_spark.plan.stages import derive
from phoebe_spark.plan.templates import shape, template

_SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text()
_VALUES = st.recursive(
    _SCALARS | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(_VALUES)
def test_both_ways_are_one(value: Any) -> None:
    text = orjson.dumps(value)
    assert b"".join(nested_json._pieces(value)) == text
    assert nested_json._built(text) == orjson.loads(text)


@pytest.mark.parametrize("levels", [100, 300, 2_000, 10_000])
def test_depth_has_no_limit(levels: int) -> None:
    text = b'{"a":[1,' * levels + b'"x"' + b"]}" * levels
    assert nested_json.dumps(nested_json.loads(text)) == text


def test_odd_scalars() -> None:
    text = b'{"lone":"\\ud800","deep":%s,"big":%s}' % (b"[" * 2000 + b"]" * 2000, b"9" * 40)
    found = nested_json.loads(text)
    assert (found["lone"], found["big"]) == ("?", 1e40)
    assert len(nested_json.loads(b'["\\ud83d\\u0041"]')) == 1, "half of a pair, and no more"


@pytest.mark.parametrize(
    "text", [b"", b"{", b'{"a":1', b'{"a":1}x', b'{"a":1}{}', b"hello", b'{"a":\xff}', b"[" * 3000]
)
def test_what_is_no_json_is_refused(text: bytes) -> None:
    with pytest.raises(orjson.JSONDecodeError):
        nested_json.loads(text)


@pytest.mark.parametrize("kind", ["Project", "Exchange", "TakeOrderedAndProject"])
def test_a_plan_of_2000_operators_is_split_into_stages(kind: str) -> None:
    plan: dict[str, Any] = {"nodeName": "Scan parquet", "simpleString": "FileScan parquet [k#1L]"}
    for n in range(2_000):
        name = "Exchange" if n % 3 == 0 else kind
        text = f"{name} hashpartitioning(k#{n}L, 2), ENSURE_REQUIREMENTS, [plan_id={n}]"
        metrics = [{"name": "shuffle bytes written", "accumulatorId": n}]
        plan = {"nodeName": name, "simpleString": text, "children": [plan], "metrics": metrics}
    root = parse_plan(nested_json.loads(nested_json.dumps(plan)))
    derived = derive(root)
    exchanges = 2_000 if kind == "Exchange" else 667
    assert len(derived.exchanges) == exchanges
    assert len(derived.graph.stages) >= exchanges
    assert len(shape(root)) == len(template(root)) == 16
