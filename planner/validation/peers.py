"""The tools that users would otherwise pick, on the same published cases: their figures are data, ours are computed."""

from __future__ import annotations

from collections.abc import Callable

from meshwright.costmodel.value import Value
from meshwright.planner.validation.rows import packaged_path, read_table
from meshwright.planner.validation.statistics import ErrorSummary, summarize
from meshwright.planner.validation.validation import validate_row

PACKAGED = "peers.csv"
TOOLS = {"calculon": "calculon", "simumax": "SimuMax 1.2", "llm_analysis": "llm-analysis", "lcs": "LCS"}
"""Column of `peers.csv`: the tool's name. LCS is llm-cluster-simulator."""
OURS = "meshwright"
HELD_OUT = "held out"
"""Ours, predicted by fits without the case's model."""


class PeerCase(Value, frozen=True, kw_only=True):
    """One case: errors of step time, predicted over measured less 1, by tool; None where a tool cannot describe it."""

    case: str
    kind: str
    measured_step_time_s: float
    errors: dict[str, float | None]


def peer_cases(on_case: Callable[[PeerCase], None] = lambda _: None) -> tuple[PeerCase, ...]:
    """All cases, with our own predictions computed now."""
    cases = []
    for text in read_table(packaged_path(PACKAGED)):
        cells = text.cells
        tokens_per_gpu = int(cells["global_batch"]) * int(cells["seq_len"]) / int(cells["gpus"])
        result = validate_row(text)
        errors: dict[str, float | None] = {
            OURS: step_time_error(result.error),
            HELD_OUT: step_time_error(result.held_out_error),
        }
        errors.update((tool, float(cells[tool]) if cells[tool] else None) for tool in TOOLS)
        cases.append(
            PeerCase(
                case=cells["id"],
                kind=cells["kind"],
                measured_step_time_s=tokens_per_gpu / float(cells["measured_tokens_per_s_per_gpu"]),
                errors=errors,
            )
        )
        on_case(cases[-1])
    return tuple(cases)


def step_time_error(error: float | None) -> float | None:
    """The error of step time that belongs to an error of tokens/s: 1 / (1 + error) - 1."""
    return None if error is None else 1.0 / (1.0 + error) - 1.0


def peer_summaries(cases: tuple[PeerCase, ...], kind: str) -> dict[str, ErrorSummary]:
    """Each tool's errors over the cases of a kind that it can describe."""
    chosen = [case for case in cases if case.kind == kind]
    return {tool: summarize(case.errors[tool] for case in chosen) for tool in (OURS, HELD_OUT, *TOOLS)}
