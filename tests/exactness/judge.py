"""Compares a case's runs: the same rows and the same failures with the plugin as without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.exactness.cases import Case
from tests.support.compare import compare_rows

AGAINST = {"write": "plain", "restore": "plain", "second": "second_plain"}
"""Each run with the plugin, and the one without it that it has to equal."""

_EXACT = ("nan", "inf", "-inf", "0.0", "-0.0")


@dataclass(frozen=True, slots=True)
class Finding:
    """What is not as it should be in one run of a case.

    ``kind``: ``wrong`` (other rows, or rows where plain Spark fails), ``failed`` (only with the
    plugin), ``typed`` (so, but as documented: a checkpoint cannot be read when a part of the result
    is handed out, and the driver was told to hold no bytes of it), ``internal`` (something of the
    plugin's own failed, the query did not), ``work`` (what Spark does once is done twice),
    ``order`` (the same rows in another order, which nobody promised but which one machine keeps),
    ``broken`` (the process hung or died).
    """

    kind: str
    run: str
    message: str

    def same_as(self, other: Finding) -> bool:
        return self.kind == other.kind and (self.run == other.run or self.kind == "internal")


def _comparable(value: Any) -> Any:
    if isinstance(value, dict):
        if "float" in value:
            said = value["float"]
            return f"float {said}" if said in _EXACT else float(said)
        return {k: _comparable(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_comparable(v) for v in value]
    return value


def difference(expected: dict[str, Any], actual: dict[str, Any]) -> tuple[str, str] | None:
    """The kind of a difference between two outcomes and what it is; None if there is none."""
    if "error" in expected or "error" in actual:
        if "error" in expected and "error" in actual:
            return None
        if "error" in actual:
            return "failed", actual["error"]
        return "wrong", f"returns rows where Spark fails: {expected['error']}"
    for n, (a, b) in enumerate(zip(expected["rows"], actual["rows"], strict=True)):
        found = compare_rows([_comparable(r) for r in a], [_comparable(r) for r in b])
        if found:
            return "wrong", f"reading {n + 1}: {found.message}; Spark: {a[:6]}, here: {b[:6]}"
    return None


def findings(
    case: Case, outcomes: dict[str, dict[str, Any]], is_held: bool = True
) -> list[Finding]:
    """``outcomes`` by run; runs that were left out are not compared. ``is_held``: the batch's."""
    found = []
    may_end_typed = case.mishap.kind in ("flipped", "lost") and not is_held
    racing = case.change.moment == "running_write"
    for run, against in AGAINST.items():
        mine, plain = outcomes.get(run), outcomes.get(against)
        if mine is None or plain is None or mine.get("skipped"):
            continue
        if not (run == "write" and racing) and (differs := difference(plain, mine)):
            kind, said = differs
            if may_end_typed and kind == "failed" and "DamagedCheckpointException" in said:
                kind = "typed"
            found.append(Finding(kind, run, said))
        elif (
            run != "second"
            and not racing
            and case.first.action in ("collect", "twice")
            and "rows" in mine
            and "rows" in plain
            and [_comparable(r) for r in mine["rows"]] != [_comparable(r) for r in plain["rows"]]
        ):
            said = f"Spark: {plain['rows'][0][:6]}, here: {mine['rows'][0][:6]}"
            found.append(Finding("order", run, said))
        if run == "write" and not racing and mine.get("reused", 0) < plain.get("reused", 0):
            said = f"{plain['reused']} exchanges are reused by Spark, {mine['reused']} here"
            found.append(Finding("work", run, said))
        failed = {k: v for k, v in mine["counts"].items() if k.startswith("failed.")}
        if failed:
            found.append(Finding("internal", run, f"guarded failures: {failed}"))
    return found


def restored(outcomes: dict[str, dict[str, Any]]) -> bool:
    """Whether any boundary was restored in a case's runs."""
    return any(
        outcomes.get(run, {}).get("counts", {}).get("checkpoints.restored", 0) > 0
        for run in ("restore", "second")
    )
