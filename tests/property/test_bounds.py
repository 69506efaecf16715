"""The cheap bounds of the search against the simulation: never above it, for any pipeline, split and costs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.simulate import (
    ScheduleKind,
    TermLayout,
    build_schedule,
    check_combination,
    chunk_durations,
    step_time_s,
)
from meshwright.planner.bounds import LayerMinimum, PassTimes, Pipe, layer_minimum, one_f_one_b_factor, step_bound_s
from meshwright.planner.memory_bounds import overlapped_share

seconds = st.floats(min_value=0.01, max_value=3.0)
layer = st.tuples(seconds, seconds, seconds, st.floats(0.0, 2.0), st.floats(0.0, 2.0))
LayerTimes = tuple[float, float, float, float, float]


def _minimum(times: LayerTimes) -> LayerMinimum:
    forward, dgrad, wgrad, gather, reduce = times
    both = forward + dgrad + wgrad
    return LayerMinimum(
        forward_s=forward,
        backward_s=dgrad + wgrad,
        gradients_s=dgrad + wgrad,
        through_s=forward + dgrad,
        joined_s=both,
        split_s=both,
        overlapped_s=both,
        gather_s=gather,
        reduce_s=reduce,
    )


def _simulated_s(
    layers: Sequence[LayerTimes], pipe: Pipe, boundaries: list[int], savings: Sequence[float] = ()
) -> float:
    schedule = build_schedule(pipe.kind, pipe.num_stages, pipe.num_micro_batches, pipe.virtual_stages)
    sums = [np.sum(layers[start:end], axis=0) if end > start else np.zeros(5) for start, end in _pairs(boundaries)]
    placed = np.array([[sums[stage] for stage in chunks] for chunks in schedule.placement])
    counts = np.array([[max(1, boundaries[s + 1] - boundaries[s]) for s in chunks] for chunks in schedule.placement])
    saved = [sum(savings[start:end]) for start, end in _pairs(boundaries)]
    durations = chunk_durations(
        TermLayout(num_stages=pipe.num_stages, num_chunks=pipe.virtual_stages),
        forward_s=placed[..., 0],
        backward_input_s=placed[..., 1],
        backward_weight_s=placed[..., 2],
        num_layers=counts,
        overlap_saving_s=np.array([[saved[stage] for stage in chunks] for chunks in schedule.placement]),
        param_gather_s=placed[..., 3],
        grad_reduce_s=placed[..., 4],
    )
    return step_time_s(schedule, durations)


def _pairs(boundaries: list[int]) -> list[tuple[int, int]]:
    return list(pairwise(boundaries))


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_no_even_split_is_faster_than_the_bound(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from([ScheduleKind.INTERLEAVED, ScheduleKind.ZB_V, ScheduleKind.DUALPIPE_V]))
    num_stages = data.draw(st.integers(2, 4))
    virtual_stages = data.draw(st.integers(2, 3)) if kind is ScheduleKind.INTERLEAVED else 2
    num_micro_batches = data.draw(st.integers(num_stages, 4 * num_stages))
    try:
        check_combination(kind, num_stages, num_micro_batches, virtual_stages)
    except StrategyError:
        return
    share = data.draw(st.integers(1, 3))
    whole = data.draw(st.booleans()) or share == 1
    count = share * num_stages * virtual_stages - (0 if whole else 2)
    layers = data.draw(st.lists(layer, min_size=count, max_size=count))
    first = share if whole else share - 1
    stages = num_stages * virtual_stages
    boundaries = (0, *(first + share * stage for stage in range(stages - 1)), count)
    pipe = Pipe(
        kind=kind,
        num_stages=num_stages,
        num_micro_batches=num_micro_batches,
        virtual_stages=virtual_stages,
        boundaries=boundaries,
    )
    bound_s = step_bound_s([_minimum(times) for times in layers], pipe)
    assert bound_s <= _simulated_s(layers, pipe, list(boundaries)) * (1 + 1e-9)


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_no_free_split_is_faster_than_the_bound(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from([ScheduleKind.ONE_F_ONE_B, ScheduleKind.ZB_H1]))
    num_stages = data.draw(st.integers(1, 5))
    num_micro_batches = data.draw(st.integers(1, 12))
    count = data.draw(st.integers(num_stages, 3 * num_stages))
    layers = data.draw(st.lists(layer, min_size=count, max_size=count))
    cuts = data.draw(
        st.lists(st.integers(1, max(1, count - 1)), min_size=num_stages - 1, max_size=num_stages - 1, unique=True)
        if count > num_stages - 1 > 0
        else st.just([])
    )
    boundaries = [0, *sorted(cuts), count]
    pipe = Pipe(kind=kind, num_stages=num_stages, num_micro_batches=num_micro_batches, virtual_stages=1)
    bound_s = step_bound_s([_minimum(times) for times in layers], pipe)
    assert bound_s <= _simulated_s(layers, pipe, boundaries) * (1 + 1e-9)


@pytest.mark.parametrize(("num_stages", "num_micro_batches"), [(1, 3), (2, 3), (4, 8), (8, 32)])
def test_the_even_1f1b_split_reaches_its_bound(num_stages: int, num_micro_batches: int) -> None:
    layers = [(1.0, 1.0, 1.0, 0.0, 0.0)] * num_stages
    pipe = Pipe(
        kind=ScheduleKind.ONE_F_ONE_B,
        num_stages=num_stages,
        num_micro_batches=num_micro_batches,
        virtual_stages=1,
    )
    expected = one_f_one_b_factor(num_stages, num_micro_batches) * 3.0 * num_stages
    assert _simulated_s(layers, pipe, list(range(num_stages + 1))) == pytest.approx(expected)


@pytest.mark.parametrize(("num_stages", "num_micro_batches"), [(2, 4), (3, 7), (5, 10), (4, 19)])
def test_the_share_of_overlapped_forwards_is_that_of_the_schedule(num_stages: int, num_micro_batches: int) -> None:
    schedule = build_schedule(ScheduleKind.DUALPIPE_V, num_stages, num_micro_batches, 2)
    for device, slots in enumerate(schedule.order):
        for chunk in (0, 1):
            together = sum(1 for slot in slots if len(slot) > 1 and slot[0].chunk == chunk)
            share = overlapped_share(ScheduleKind.DUALPIPE_V, num_stages, num_micro_batches, device, chunk)
            assert share == pytest.approx(together / num_micro_batches)


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_what_devices_work_at_least_keeps_the_bound_below_every_choice(data: st.DataObject) -> None:
    """Minima over several ways to run each layer, with the very work of one choice of them: the most that `busy_s` may
    say of it.
    """
    kinds = [ScheduleKind.ONE_F_ONE_B, ScheduleKind.INTERLEAVED, ScheduleKind.ZB_V, ScheduleKind.DUALPIPE_V]
    kind = data.draw(st.sampled_from(kinds))
    num_stages = 1 if kind is ScheduleKind.ONE_F_ONE_B else data.draw(st.integers(2, 3))
    chunks = 1 if kind is ScheduleKind.ONE_F_ONE_B else 2
    num_micro_batches = data.draw(st.integers(num_stages, 3 * num_stages))
    try:
        check_combination(kind, num_stages, num_micro_batches, chunks)
    except StrategyError:
        return
    share = data.draw(st.integers(1, 3))
    count = share * num_stages * chunks
    several = st.lists(st.builds(_way, *[seconds] * 3, st.floats(0.0, 1.0)), min_size=1, max_size=3)
    ways = data.draw(st.lists(several, min_size=count, max_size=count))
    states = data.draw(st.lists(st.tuples(seconds, seconds), min_size=count, max_size=count))
    chosen = [data.draw(st.sampled_from(layer_ways)) for layer_ways in ways]
    minima = [
        msgspec.structs.replace(layer_minimum(layer_ways), gather_s=gather_s, reduce_s=reduce_s)
        for layer_ways, (gather_s, reduce_s) in zip(ways, states, strict=True)
    ]
    boundaries = list(range(0, count + 1, share))
    pipe = Pipe(
        kind=kind,
        num_stages=num_stages,
        num_micro_batches=num_micro_batches,
        virtual_stages=chunks,
        boundaries=tuple(boundaries),
    )
    busy_s = [
        sum(
            _passes_s(way, overlapped_share(kind, num_stages, num_micro_batches, device, chunk))
            for chunk, stage in enumerate(stages)
            for way in chosen[boundaries[stage] : boundaries[stage + 1]]
        )
        for device, stages in enumerate(build_schedule(kind, num_stages, num_micro_batches, chunks).placement)
    ]
    layers = [(way.forward_s, way.dgrad_s, way.wgrad_s, *state) for way, state in zip(chosen, states, strict=True)]
    savings = [way.overlap_saving_s for way in chosen]
    simulated_s = _simulated_s(layers, pipe, boundaries, savings)
    assert step_bound_s(minima, pipe, busy_s) <= simulated_s * (1 + 1e-9)


def _way(forward_s: float, dgrad_s: float, wgrad_s: float, saved: float) -> PassTimes:
    return PassTimes(
        forward_s=forward_s,
        backward_s=dgrad_s + wgrad_s,
        dgrad_s=dgrad_s,
        wgrad_s=wgrad_s,
        overlap_saving_s=saved * min(forward_s, dgrad_s),
    )


def _passes_s(way: PassTimes, share: float) -> float:
    return way.forward_s + way.dgrad_s + way.wgrad_s - share * way.overlap_saving_s
