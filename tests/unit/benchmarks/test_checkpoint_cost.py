"""What the bench of a checkpoint's cost says of itself."""

from __future__ import annotations

from benchmarks.checkpoint_cost import _few


def test_a_shape_with_fewer_than_five_repeats_says_so() -> None:
    assert _few({"narrow": 5, "large": 3, "wide_16": 6}) == ["large: 3 repeats instead of 5"]
