"""Rows that let the boundaries between virtual stages lie anywhere in the stack, however its layer types alternate.

Each boundary has, per run of the stack, the whole units before it, which part of a unit it cuts off, and whether it has
passed the run. Where all layers are of one type none of that is needed: the layers only have to add up.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from meshwright.planner.layer_pattern import Run, layer_runs
from meshwright.planner.point import PointProblem
from meshwright.planner.pulp_solver import Program, Variable


def add_split(program: Program, problem: PointProblem, layers: list[dict[int, Any]]) -> None:
    """Ties `layers[virtual stage][type]` (expressions: layers of a type) to the order of the stack."""
    for stage, by_type in enumerate(layers):
        program.require(sum(by_type.values()) >= problem.fewest_layers(stage))
    runs = layer_runs(problem.layer_types)
    totals = Counter(problem.layer_types)
    if len(runs) == 1 and len(totals) == 1:
        program.require(sum(by_type[runs[0].unit[0]] for by_type in layers) == totals[runs[0].unit[0]])
        return
    before: dict[int, Any] = dict.fromkeys(totals, 0)
    for stage, by_type in enumerate(layers):
        is_last = stage == len(layers) - 1
        after = dict(totals) if is_last else _add_boundary(program, runs, f"b{stage}")
        for kind, expression in by_type.items():
            program.require(expression - after[kind] + before[kind] == 0)
        before = after


@dataclass(frozen=True, kw_only=True, slots=True)
class _RunPart:
    """The part of a run before a boundary: whole units, and which proper prefix of a unit (one binary each)."""

    units: Variable
    prefixes: list[Variable]


def _add_boundary(program: Program, runs: tuple[Run, ...], name: str) -> dict[int, Any]:
    """A boundary's variables and rows; the layers of each type before it."""
    parts = [_add_part(program, run, f"{name}_{index}") for index, run in enumerate(runs)]
    for index in range(len(runs) - 1):
        passed = program.variable(f"{name}_{index}_passed", 1, integer=True)
        program.require(parts[index].units - runs[index].repeats * passed >= 0)
        after = parts[index + 1]
        program.require(
            program.sum([(after.units, 1), *((v, 1) for v in after.prefixes)]) - runs[index + 1].repeats * passed <= 0
        )
    return _layers_before(program, runs, parts)


def _add_part(program: Program, run: Run, name: str) -> _RunPart:
    units = program.variable(f"{name}_units", run.repeats, integer=True)
    prefixes = [program.variable(f"{name}_cut{size}", 1, integer=True) for size in range(1, len(run.unit))]
    if prefixes:
        program.require(program.sum((variable, 1) for variable in prefixes) <= 1)
        program.require(program.sum((variable, 1) for variable in (units, *prefixes)) <= run.repeats)
    return _RunPart(units=units, prefixes=prefixes)


def _layers_before(program: Program, runs: tuple[Run, ...], parts: list[_RunPart]) -> dict[int, Any]:
    terms: dict[int, list[tuple[Variable, float]]] = {kind: [] for run in runs for kind in run.unit}
    for run, part in zip(runs, parts, strict=True):
        for kind, count in Counter(run.unit).items():
            terms[kind].append((part.units, count))
        for size, variable in enumerate(part.prefixes, start=1):
            for kind, count in Counter(run.unit[:size]).items():
                terms[kind].append((variable, count))
    return {kind: program.sum(pairs) for kind, pairs in terms.items()}
