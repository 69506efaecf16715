"""Where the time of a pass that has run went: communication exposed and hidden, and what it cost computation."""

from __future__ import annotations

from dataclasses import dataclass

from meshwright.costmodel.order.fusion import FusedPair
from meshwright.costmodel.order.pass_problem import NO_LINK, STREAMS, PassProblem
from meshwright.costmodel.order.run_order import Run
from meshwright.costmodel.program.operators import Resource


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StreamUse:
    """Seconds by link: `exposed_s`, in which computation waits for it, and `hidden_s`, the rest of its seconds alone.

    `slowdown_s`: what hidden communication costs computation. Computation alone, slow-down and exposed seconds add up
    to the pass.
    """

    exposed_s: dict[Resource, float]
    hidden_s: dict[Resource, float]
    slowdown_s: float


def stream_use(problem: PassProblem, run: Run) -> StreamUse:
    """Account for every second of a pass."""
    exposed_s = dict(zip(STREAMS, run.idle_s, strict=True))
    hidden_s = {resource: -idle_s for resource, idle_s in exposed_s.items()}
    slowdown_s = 0.0
    grouping = run.grouping
    for number, members in enumerate(grouping.groups):
        if grouping.computes[number]:
            slowdown_s += run.end_s[number] - run.start_s[number] - run.time_s[number]
        pair = grouping.pairs[number]
        if pair is not None:
            slowdown_s += _account_fused(problem, pair, exposed_s, hidden_s)
        elif grouping.link[number] != NO_LINK:
            hidden_s[STREAMS[grouping.link[number]]] += run.time_s[number]
        elif not grouping.computes[number]:
            exposed_s[problem.operators[members[0]].resource] += run.time_s[number]
    return StreamUse(exposed_s=exposed_s, hidden_s=hidden_s, slowdown_s=slowdown_s)


def _account_fused(
    problem: PassProblem, pair: FusedPair, exposed_s: dict[Resource, float], hidden_s: dict[Resource, float]
) -> float:
    _, inside_s, slowdown_s = problem.fused_times_s(pair)
    resource = problem.operators[pair.communication].resource
    hidden_s[resource] += inside_s
    exposed_s[resource] += problem.time_s[pair.communication] - inside_s
    return slowdown_s
