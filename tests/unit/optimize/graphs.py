"""Random stage graphs for the optimizer's tests."""

from __future__ import annotations

from hypothesis import strategies as st

from phoebe_spark.graph import Boundary, Stage, StageGraph


@st.composite
def stage_graphs(
    draw: st.DrawFn, max_stages: int = 7, consistent: bool = True, refuse: bool = True
) -> StageGraph:
    """Shuffle stages and final stages; with ``consistent`` a stage starts once its parents ended.

    Otherwise starts and ends are arbitrary, as independent predictions may be.
    """
    n = draw(st.integers(2, max_stages))
    stages: list[Stage] = []
    for u in range(n):
        last = u == n - 1
        parents = draw(st.sets(st.integers(0, u - 1), max_size=3)) if u else set()
        if last and not parents:
            parents = {u - 1}
        after = max((stages[p].end_ms for p in parents), default=0.0)
        wait = float(draw(st.integers(0, 5)))
        start = after + wait if consistent else float(draw(st.integers(0, 30)))
        end = start + draw(st.integers(1, 20))
        boundary = Boundary(f"e{u}", f"t{u}", eligible=not refuse or draw(st.integers(0, 4)) > 0)
        stages.append(
            Stage(
                stage_id=u,
                parents=tuple(sorted(parents)),
                boundary=None if last else boundary,
                output_bytes=0.0 if last else float(draw(st.integers(0, 50))),
                start_ms=start,
                end_ms=end,
            )
        )
    finish = max(s.end_ms for s in stages)
    return StageGraph(tuple(_finished(s, finish) for s in stages))


def _finished(stage: Stage, finish: float) -> Stage:
    from dataclasses import replace

    return replace(stage, ttl_ms=finish - stage.end_ms)


def chain_graph(*outputs: float, step_ms: float = 1000.0) -> StageGraph:
    """Stage after stage, each ``step_ms`` long; the last has no output."""
    n = len(outputs) + 1
    stages = [
        Stage(
            stage_id=u,
            parents=(u - 1,) if u else (),
            boundary=Boundary(f"e{u}", f"t{u}") if u < n - 1 else None,
            output_bytes=outputs[u] if u < n - 1 else 0.0,
            start_ms=u * step_ms,
            end_ms=(u + 1) * step_ms,
            ttl_ms=(n - u - 1) * step_ms,
        )
        for u in range(n)
    ]
    return StageGraph(tuple(stages))
