"""Simulates a training step, and says which durations its length is made of."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from meshwright.costmodel.simulate.durations import Array, CutCoefficients, Durations, chunk_durations
from meshwright.costmodel.simulate.overlap import OVERLAP_ALL, OverlapPolicy
from meshwright.costmodel.simulate.schedule import Schedule, ScheduleKind
from meshwright.costmodel.simulate.schedules import build_schedule
from meshwright.costmodel.simulate.step_graph import step_graph
from meshwright.costmodel.simulate.terms import TermLayout
from meshwright.costmodel.simulate.timeline import StepTimeline


def simulate(schedule: Schedule, durations: Durations, overlap: OverlapPolicy = OVERLAP_ALL) -> StepTimeline:
    """Every event of one training step of one data-parallel replica."""
    step = step_graph(schedule, overlap)
    return StepTimeline(step=step, durations=durations, times_s=tuple(step.graph.times(durations.vector)))


def step_time_s(schedule: Schedule, durations: Durations, overlap: OverlapPolicy = OVERLAP_ALL) -> float:
    """Seconds from the first parameter gather to the last optimizer's end."""
    return step_graph(schedule, overlap).graph.times(durations.vector)[-1]


def critical_path(schedule: Schedule, durations: Durations, overlap: OverlapPolicy = OVERLAP_ALL) -> CutCoefficients:
    """The longest path at these durations: their step time, and a lower bound of it at any other durations.

    The step time is the maximum over the paths of a fixed graph, each linear in the durations; so a path's length is
    its tangent where the path is longest and never above it elsewhere: a cutting plane.
    """
    step = step_graph(schedule, overlap)
    times = step.graph.times(durations.vector)
    return CutCoefficients(layout=step.layout, vector=step.graph.longest_path(durations.vector, times))


@lru_cache(maxsize=64)
def lower_bound_paths(
    kind: ScheduleKind,
    num_stages: int,
    num_micro_batches: int,
    num_chunks: int,
    overlap: OverlapPolicy = OVERLAP_ALL,
) -> tuple[CutCoefficients, ...]:
    """A few paths to start a search for cuts with: the longest with equal devices, and with each slowed in turn."""
    schedule = build_schedule(kind, num_stages, num_micro_batches, num_chunks)
    slowed = [np.ones((num_stages, 1)), *(1.0 + np.eye(num_stages)[:, :, None])]
    paths = (critical_path(schedule, _nominal(schedule, factor), overlap) for factor in slowed)
    return tuple({path.vector.tobytes(): path for path in paths}.values())


def _nominal(schedule: Schedule, factor: Array) -> Durations:
    """Forward, input and weight gradient equal; communication small, but there, so that paths pay for it."""
    return chunk_durations(
        TermLayout(num_stages=schedule.num_stages, num_chunks=schedule.num_chunks),
        forward_s=factor,
        backward_input_s=factor,
        backward_weight_s=factor,
        num_layers=4,
        forward_hop_s=0.05,
        backward_hop_s=0.05,
        param_gather_s=0.5 * factor,
        grad_reduce_s=factor,
        barrier_s=0.01,
        optimizer_s=0.1 * factor[:, 0],
    )
