"""Whether predictions order plans as measurements do: rank correlation, and what the predicted best one loses."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from meshwright.costmodel.value import Value
from meshwright.planner.validation.peers import OURS, TOOLS, PeerCase
from meshwright.planner.validation.rows import packaged_path, read_table
from meshwright.planner.validation.statistics import spearman
from meshwright.planner.validation.validation import RowResult, validate

PACKAGED = "a100_multi_node.csv"
PLANS = "Qwen3-235B"
PEER_SPEARMAN = {
    "calculon": (0.95, 0.60, 0.43, 0.86),
    "simumax": (0.97, 0.66, 0.58, 0.91),
    "lcs": (0.91, 0.85, 0.85, 0.68),
}
"""Other tools on the A100 rows, from the smallest model to the largest: run once, with one fixed setting each."""
PEER_REGRET = {"calculon": 0.045, "simumax": 0.045, "lcs": 0.094}
"""The most that their pick loses on one of the four models."""


class Ranking(Value, frozen=True, kw_only=True):
    """Plans of one model. `regret`: time of the plan predicted to be best over that of the best one, less 1."""

    name: str
    plans: int
    spearman: float
    regret: float
    picked: str
    best: str


def rank(name: str, times: Sequence[tuple[str, float, float]]) -> Ranking:
    """Plans with measured and predicted time, in any unit."""
    picked = min(times, key=lambda plan: plan[2])
    best = min(times, key=lambda plan: plan[1])
    return Ranking(
        name=name,
        plans=len(times),
        spearman=spearman([plan[1] for plan in times], [plan[2] for plan in times]),
        regret=picked[1] / best[1] - 1.0,
        picked=picked[0],
        best=best[0],
    )


def rank_rows(results: Sequence[RowResult]) -> tuple[Ranking, ...]:
    """Rows of each model that differ in their plan, by predictions of fits without the model."""
    groups: dict[str, list[tuple[str, float, float]]] = {}
    for row in results:
        if row.held_out_tokens_per_s_per_gpu and row.measured_tokens_per_s_per_gpu:
            times = (1.0 / row.measured_tokens_per_s_per_gpu, 1.0 / row.held_out_tokens_per_s_per_gpu)
            groups.setdefault(row.model, []).append((row.id, *times))
    return tuple(rank(model, times) for model, times in groups.items() if len(times) > 1)


def a100_rankings(on_row: Callable[[RowResult], None] = lambda _: None) -> tuple[Ranking, ...]:
    """The 109 measured plans of four models on A100."""
    return rank_rows(validate(read_table(packaged_path(PACKAGED)), on_row))


def plan_rankings(cases: Sequence[PeerCase]) -> dict[str, Ranking]:
    """The Qwen3-235B plans on 256 GPUs, as each tool orders those that it can describe."""
    chosen = [case for case in cases if case.case.startswith(PLANS)]
    rankings = {}
    for tool in (OURS, *TOOLS):
        times = [
            (case.case, case.measured_step_time_s, case.measured_step_time_s * (1.0 + error))
            for case in chosen
            if (error := case.errors[tool]) is not None
        ]
        if len(times) > 1:
            rankings[tool] = rank(f"{PLANS}, by {tool}", times)
    return rankings
