"""What a solve ranged over and what it found, as text and as the fields of its solution."""

from __future__ import annotations

from typing import TypedDict

from meshwright.planner.alike_chunks import alike_kinds
from meshwright.planner.point import ChoiceCount, PointProblem
from meshwright.planner.stage_totals import Counts, peak_memory_bytes, tables


def space_text(problem: PointProblem) -> str:
    """What the lower bound of a solve ranges over."""
    kinds = sorted(set(problem.layer_types))
    choices = " + ".join(str(len(problem.choices[kind])) for kind in kinds)
    text = (
        f"every split of {len(problem.layer_types)} layers over {problem.num_virtual_stages} virtual stages of at least"
        f" {problem.min_layers}, every mix of {choices} choices by layer type on each"
    )
    return f"{text}, chunks of a device alike up to one layer" if alike_kinds(problem) else text


class Described(TypedDict, total=False):
    """Fields of a solution that describe its assignment; all of them or none."""

    layers_per_virtual_stage: tuple[int, ...]
    assignment: tuple[tuple[ChoiceCount, ...], ...]
    peak_memory_bytes: tuple[float, ...]


def described(problem: PointProblem, counts: Counts) -> Described:
    """An assignment as fields of a solution."""
    return {
        "layers_per_virtual_stage": tuple(counts.sum(axis=1).tolist()),
        "assignment": _assignment(problem, counts),
        "peak_memory_bytes": tuple(peak_memory_bytes(problem, counts).tolist()),
    }


def _assignment(problem: PointProblem, counts: Counts) -> tuple[tuple[ChoiceCount, ...], ...]:
    items = tables(problem).items
    return tuple(
        tuple(
            ChoiceCount(layer_type=kind, choice=choice, count=int(count))
            for (kind, choice), count in zip(items, row, strict=True)
            if count
        )
        for row in counts
    )
