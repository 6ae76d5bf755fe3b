"""Typed reasons: why a boundary was checkpointed, skipped, restored or refused.

Logs, ``phoebe explain``, reports, tables and tests all read these objects; nothing else in the
project words a decision. The JVM side sends reasons of its own in the same three fields.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Reason:
    """A decision's reason.

    >>> Reason("over_budget", {"bytes": 10, "left_bytes": 5}, "10 bytes do not fit the 5 left")
    Reason(code='over_budget', ...)

    ``code`` is stable and machine-readable (snake case), ``args`` holds the figures the sentence
    names, ``message`` is one sentence for a person.
    """

    code: str
    args: dict[str, Any] = field(default_factory=dict)
    message: str = ""
