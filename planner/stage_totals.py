"""From an assignment (how many layers use which choice on which virtual stage) to durations, step time and memory.

This is what the search is judged by; every other formula of the inner solve is a bound of it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from meshwright.costmodel.beside import met
from meshwright.costmodel.simulate import (
    CutCoefficients,
    Durations,
    ScheduleKind,
    chunk_durations,
    critical_path,
    in_flight_held,
)
from meshwright.costmodel.simulate import step_time_s as simulated_step_time_s
from meshwright.costmodel.simulate.durations import Array
from meshwright.costmodel.step import SPLIT_BACKWARD, state_slowdown_s
from meshwright.planner.choice import COST_FIELDS, ONCE_A_STEP, costs
from meshwright.planner.point import PointProblem

Counts: TypeAlias = npt.NDArray[np.int64]
"""[virtual stage, item]: layers; an item is one choice of one layer type."""

MEMORY_TOLERANCE = 1e-9
"""Share of the memory limit by which a peak may exceed it: the solver's precision."""

COLUMN = {name: index for index, name in enumerate(COST_FIELDS)}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Tables:
    """A problem in arrays: `items` are (layer type, choice), `costs` [item, field], `ends` [virtual stage, field].

    `num_ends`: embeddings and heads of each virtual stage. `device`, `chunk`: where each virtual stage lies.
    `meets`: [virtual stage, item], the share of a stage's layers of the item's type whose forward finds one of its type
    to run beside (DualPipeV).
    """

    items: tuple[tuple[int, int], ...]
    item_types: npt.NDArray[np.int64]
    costs: Array
    ends: Array
    end_transient: Array
    num_ends: npt.NDArray[np.int64]
    stage_at: npt.NDArray[np.int64]
    device: npt.NDArray[np.int64]
    chunk: npt.NDArray[np.int64]
    reserved_bytes: Array
    meets: Array

    def column(self, name: str) -> Array:
        """One number of every item."""
        return self.costs[:, COLUMN[name]]

    def end(self, name: str) -> Array:
        """One number of every virtual stage's embedding and head together."""
        return self.ends[:, COLUMN[name]]


@lru_cache(maxsize=128)
def tables(problem: PointProblem) -> Tables:
    """The problem in arrays."""
    used = sorted(set(problem.layer_types))
    items = tuple((kind, choice) for kind in used for choice in range(len(problem.choices[kind])))
    stage_at = np.array(problem.placement, dtype=np.int64)
    order = np.argsort(stage_at, axis=None)
    device, chunk = np.unravel_index(order, stage_at.shape)
    ends = np.zeros((problem.num_virtual_stages, len(COST_FIELDS)))
    transient = np.zeros(problem.num_virtual_stages)
    num_ends = np.zeros(problem.num_virtual_stages, dtype=np.int64)
    for stage, part in ((0, problem.first), (-1, problem.last)):
        if part is not None:
            ends[stage] += costs(part)
            transient[stage] = max(transient[stage], part.transient_bytes)
            num_ends[stage] += 1
    return Tables(
        items=items,
        item_types=np.array([kind for kind, _ in items], dtype=np.int64),
        costs=np.array([costs(problem.choices[kind][choice]) for kind, choice in items]),
        ends=ends,
        end_transient=transient,
        num_ends=num_ends,
        stage_at=stage_at,
        device=device,
        chunk=chunk,
        reserved_bytes=np.array(problem.reserved_bytes or np.zeros(problem.num_stages), dtype=np.float64),
        meets=_meets(problem)[:, [kind for kind, _ in items]],
    )


def _meets(problem: PointProblem) -> Array:
    """[virtual stage, layer type]; all layers meet one where the split is not known."""
    shares = np.ones((problem.num_virtual_stages, len(problem.choices)))
    if problem.kind is not ScheduleKind.DUALPIPE_V or not problem.boundaries:
        return shares
    layers = [problem.layer_types[start:end] for start, end in pairwise(problem.boundaries)]
    for stage, (own, other) in enumerate(zip(layers, reversed(layers), strict=True)):
        found, numbers = Counter(met(own, other)), Counter(own)
        for kind, number in numbers.items():
            shares[stage, kind] = found[kind] / number
    return shares


def durations(problem: PointProblem, counts: Array | Counts) -> Durations:
    """Seconds of every duration term."""
    table = tables(problem)
    totals = (counts @ table.costs + table.ends)[table.stage_at]

    def total(name: str) -> Array:
        result: Array = totals[..., COLUMN[name]]
        return result

    split = problem.kind in SPLIT_BACKWARD
    saving = ((counts * table.meets) @ table.column("overlap_saving_s"))[table.stage_at]
    weight = total("wgrad_s") if split else np.minimum(total("wgrad_s"), total("backward_s"))
    num_parts = np.maximum(1, counts.sum(axis=1) + table.num_ends)[table.stage_at]
    return chunk_durations(
        problem.layout,
        forward_s=total("forward_s") + problem.wait_s,
        backward_input_s=(total("dgrad_s") if split else total("backward_s") - weight) + problem.wait_s,
        backward_weight_s=weight,
        num_layers=num_parts,
        overlap_saving_s=np.minimum(saving, total("forward_s")),  # but for rounding it is less
        forward_hop_s=problem.hops_s or 0.0,
        backward_hop_s=problem.hops_s or 0.0,
        param_gather_s=total("param_gather_s"),
        grad_reduce_s=total("grad_reduce_s"),
        state_slowdown_s=state_slowdown_s(problem.schedule, total("gather_slowdown_s"), total("reduce_slowdown_s")),
        barrier_s=problem.barrier_s,
        optimizer_s=total("optimizer_s").sum(axis=1),
    )


def step_time_s(problem: PointProblem, counts: Array | Counts) -> float:
    """The simulated step."""
    return simulated_step_time_s(problem.schedule, durations(problem, counts), problem.overlap)


def longest_path(problem: PointProblem, counts: Array | Counts) -> tuple[float, CutCoefficients]:
    """The simulated step and the path that sets it."""
    seconds = durations(problem, counts)
    path = critical_path(problem.schedule, seconds, problem.overlap)
    return path.length_s(seconds), path


def peak_memory_bytes(problem: PointProblem, counts: Array | Counts) -> Array:
    """Peak of every device: reserve, state of its chunks, kept tensors at the worst moment, the largest transient."""
    table = tables(problem)
    totals = counts @ table.costs + table.ends
    static = totals[:, COLUMN["static_bytes"]]
    used = np.where(counts > 0, table.column("transient_bytes"), 0.0).max(axis=1, initial=0.0)
    transient = np.maximum(used, table.end_transient)
    held = np.array(
        [(moments(problem, device) @ held_bytes(problem, counts, device)).max() for device in range(problem.num_stages)]
    )
    result: Array = (
        table.reserved_bytes + static[table.stage_at].sum(axis=1) + transient[table.stage_at].max(axis=1) + held
    )
    return result


def held_bytes(problem: PointProblem, counts: Array | Counts, device: int) -> Array:
    """Bytes that a micro-batch in flight holds on each chunk of a device, then what a late one holds on top of that."""
    table = tables(problem)
    stages = table.stage_at[device]
    names = ("kept_bytes", "late_bytes")
    result: Array = np.concatenate([(counts @ table.column(name) + table.end(name))[stages] for name in names])
    return result


def moments(problem: PointProblem, device: int) -> Array:
    """[moment, chunks, then chunks again]: micro-batches in flight, and those of them that are late."""
    return np.array([held.total + held.late for held in in_flight_held(problem.schedule)[device]], dtype=np.float64)


def micro_batch_s(problem: PointProblem, part_costs: Array) -> Array:
    """Forward and backward of one micro-batch, from arrays whose last axis are the cost fields."""
    names = ("forward_s", "dgrad_s", "wgrad_s") if problem.is_split else ("forward_s", "backward_s")
    result: Array = sum((part_costs[..., COLUMN[name]] for name in names), np.zeros(part_costs.shape[:-1]))
    return result


def own_seconds(problem: PointProblem) -> Array:
    """What a layer of each item adds to its device's step: every micro-batch, gather, reduction, optimizer.

    Gathers slow only the device of the first virtual stage; here, each.
    """
    table = tables(problem)
    once = sum((table.column(name) for name in ONCE_A_STEP), np.zeros(len(table.items)))
    result: Array = problem.num_micro_batches * micro_batch_s(problem, table.costs) + once
    return result


def free_bytes(problem: PointProblem, device: int, held: npt.ArrayLike, late: npt.ArrayLike = 0.0) -> float:
    """Bytes left for layers and transients when the device holds that many micro-batches of each chunk."""
    table, stages = tables(problem), list(problem.placement[device])
    ends = table.end("static_bytes")[stages] + np.asarray(held) * table.end("kept_bytes")[stages]
    ends += np.asarray(late) * table.end("late_bytes")[stages]
    return float(problem.memory_limit_bytes - table.reserved_bytes[device] - ends.sum())
