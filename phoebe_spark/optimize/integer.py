"""The integer program over a `Problem` (PuLP, solved by CBC): exact, with budget, prices and
nested cuts. The reference for the sweep; too slow for the path of a query.

Variables per cut k: ``z[k,i]`` item i is inside; ``x[k,j]`` the least start outside has reached
the j-th distinct start; ``T[k]`` the cut's time to live; ``h[k,.]`` the product of a gain newly
inside (an item's bytes, a step of start time) with ``T[k]``, linear because ``h <= T`` and
``h <= ttl_max * newly inside``.
"""

from __future__ import annotations

from phoebe_spark.optimize.problem import INF, Problem, Weights, bits, cost


def solve(
    problem: Problem,
    weights: Weights,
    budget: float = INF,
    max_cuts: int = 1,
    time_limit_s: float | None = None,
) -> tuple[int, ...]:
    """The best chain of at most ``max_cuts`` nested sets; empty when no checkpoint is best.

    Raises ``ImportError`` without PuLP (the extra ``exact``), and ``RuntimeError`` when the solver
    finds no answer within ``time_limit_s``.
    """
    import pulp  # type: ignore[import-untyped]

    if problem.n == 0:
        return ()
    top = max(problem.ttl_ms)
    levels = _levels(problem)
    gains = [weights.temp * b for b in problem.bytes]
    if weights.restart and problem.duration_ms > 0:
        gains += [weights.restart * step / problem.duration_ms for step, _ in levels]
    scale = sum(gains) * top
    if scale <= 0:
        return ()
    unit = max((o.durable_bytes for o in problem.outputs), default=0.0) or 1.0
    program = pulp.LpProblem("cuts", pulp.LpMaximize)
    terms = []
    durable = {x: program.add_variable(f"d_{x}", cat="Binary") for x in range(len(problem.outputs))}
    before: list[pulp.LpVariable] | None = None
    cuts: list[list[pulp.LpVariable]] = []
    for k in range(max_cuts):
        z = [program.add_variable(f"z_{k}_{i}", cat="Binary") for i in range(problem.n)]
        members = list(z)
        if len(gains) > problem.n:
            members += [
                program.add_variable(f"x_{k}_{j}", cat="Binary") for j in range(len(levels))
            ]
            for j, (_, needed) in enumerate(levels):
                for i in bits(needed):
                    program += members[problem.n + j] <= z[i]
        ttl = program.add_variable(f"t_{k}", 0, 1)
        for i in range(problem.n):
            share = problem.ttl_ms[i] / top if top else 0.0
            program += ttl <= share + (1 - share) * (1 - z[i])
            for p in bits(problem.parents[i]):
                program += z[i] <= z[p]
        for m, gain in enumerate(gains):
            if before is not None:
                program += before[m] <= members[m]
            new = members[m] - before[m] if before is not None else members[m]
            held = program.add_variable(f"h_{k}_{m}", 0, 1)
            program += held <= ttl
            program += held <= new
            terms.append(gain * top / scale * held)
        for x, output in enumerate(problem.outputs):
            for reader in bits(output.readers):
                outside = z[reader] if reader < problem.n else 0
                program += durable[x] >= z[output.item] - outside
        before = members
        cuts.append(z)
    for x, output in enumerate(problem.outputs):
        terms.append(-cost(output, weights) / scale * durable[x])
    if budget < INF:
        program += (
            pulp.lpSum(o.durable_bytes / unit * durable[x] for x, o in enumerate(problem.outputs))
            <= budget / unit
        )
    program.setObjective(pulp.lpSum(terms))
    program.solve(pulp.PULP_CBC_CMD(msg=False, timeLimit=time_limit_s, gapRel=0.0, threads=1))
    if pulp.LpStatus[program.status] != "Optimal":
        raise RuntimeError(f"the integer program ended as {pulp.LpStatus[program.status]}")
    chain: list[int] = []
    for z in cuts:
        inside = sum(1 << i for i, v in enumerate(z) if (v.value() or 0.0) > 0.5)
        if inside and (not chain or inside != chain[-1]):
            chain.append(inside)
    return tuple(chain) if problem.value(chain, weights) > 0 else ()


def _levels(problem: Problem) -> list[tuple[float, int]]:
    """Steps of the least start outside: (step in ms, items that must be inside to take it)."""
    at = problem.least_start_outside(0)
    levels: list[tuple[float, int]] = []
    marks = sorted({s for s in (*problem.start_ms, problem.outside_start_ms) if s > at})
    for mark in marks:
        if mark > problem.outside_start_ms:
            break
        needed = sum(1 << i for i, s in enumerate(problem.start_ms) if s < mark)
        levels.append((mark - at, needed))
        at = mark
    return levels
