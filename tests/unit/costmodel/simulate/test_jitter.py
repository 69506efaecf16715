from __future__ import annotations

import math

import numpy as np
import pytest

from meshwright.costmodel.formulas.stragglers import expected_slowest_s
from meshwright.costmodel.simulate import (
    OVERLAP_ALL,
    ScheduleKind,
    TermLayout,
    build_schedule,
    chunk_durations,
    simulate,
)
from meshwright.costmodel.simulate.durations import Durations
from meshwright.costmodel.simulate.jitter import BLOCK, jittered_step_times_s
from meshwright.costmodel.simulate.step_graph import StepGraph, step_graph


def _step(kind: ScheduleKind, num_stages: int, micro_batches: int, chunks: int = 1) -> tuple[StepGraph, Durations]:
    schedule = build_schedule(kind, num_stages, micro_batches, chunks)
    durations = chunk_durations(
        TermLayout(num_stages=num_stages, num_chunks=chunks),
        forward_s=1.0,
        backward_input_s=1.25,
        backward_weight_s=0.75,
        num_layers=4,
        forward_hop_s=0.1,
        backward_hop_s=0.1,
        grad_reduce_s=0.5,
        optimizer_s=0.2,
    )
    return step_graph(schedule, OVERLAP_ALL), durations


@pytest.mark.parametrize(
    ("kind", "num_stages", "micro_batches", "chunks"),
    [
        (ScheduleKind.ONE_F_ONE_B, 1, 8, 1),
        (ScheduleKind.ONE_F_ONE_B, 4, 8, 1),
        (ScheduleKind.INTERLEAVED, 4, 8, 2),
        (ScheduleKind.DUALPIPE_V, 4, 12, 2),
    ],
)
def test_without_jitter_it_is_the_simulated_step(
    kind: ScheduleKind, num_stages: int, micro_batches: int, chunks: int
) -> None:
    step, durations = _step(kind, num_stages, micro_batches, chunks)
    times = jittered_step_times_s(step, durations, 0.0, 3, np.random.default_rng(0))
    assert times.tolist() == [simulate(step.schedule, durations).step_time_s] * 3


def test_one_stage_adds_up_independent_passes() -> None:
    """Eight forwards of 1 s and eight backwards of 2 s, then a reduction that hides all but its last bucket."""
    step, durations = _step(ScheduleKind.ONE_F_ONE_B, 1, 8)
    steady = simulate(step.schedule, durations).step_time_s
    times = jittered_step_times_s(step, durations, 0.1, 20_000, np.random.default_rng(1))
    deviation = 0.1 * math.sqrt(8 * 1.0 + 8 * 4.0)
    assert times.mean() == pytest.approx(steady, abs=4 * deviation / math.sqrt(20_000))
    assert times.std() == pytest.approx(deviation, rel=0.03)


@pytest.mark.parametrize("replicas", [2, 10, 100])
def test_the_slowest_replica_is_that_of_extreme_value_theory(replicas: int) -> None:
    step, durations = _step(ScheduleKind.ONE_F_ONE_B, 1, 64)
    steady = simulate(step.schedule, durations).step_time_s
    times = jittered_step_times_s(step, durations, 0.02, 400 * replicas, np.random.default_rng(2))
    slowest = times.reshape(400, replicas).max(axis=1)
    deviation = 0.02 * math.sqrt(64 * (1.0 + 4.0))
    error = slowest.std() / math.sqrt(400)
    assert slowest.mean() == pytest.approx(expected_slowest_s(steady, deviation, replicas), abs=4 * error)


def test_a_pipeline_waits_for_its_slowest_passes() -> None:
    """Jitter does not average out where stages wait for each other."""
    step, durations = _step(ScheduleKind.ONE_F_ONE_B, 8, 16)
    steady = simulate(step.schedule, durations).step_time_s
    means = [
        float(jittered_step_times_s(step, durations, jitter, 500, np.random.default_rng(3)).mean())
        for jitter in (0.0, 0.03, 0.1, 0.3)
    ]
    assert means[0] == pytest.approx(steady)
    assert means == sorted(set(means))
    assert means[2] > 1.01 * steady


def test_equal_seeds_give_equal_numbers_over_several_blocks() -> None:
    step, durations = _step(ScheduleKind.ONE_F_ONE_B, 2, 4)
    first, second = (jittered_step_times_s(step, durations, 0.1, BLOCK + 5, np.random.default_rng(4)) for _ in range(2))
    assert first.shape == (BLOCK + 5,)
    assert (first == second).all()
