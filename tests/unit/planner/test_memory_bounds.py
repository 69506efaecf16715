from __future__ import annotations

from itertools import product

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.costmodel.simulate import ScheduleKind
from meshwright.planner.choice import Choice, EndCost
from meshwright.planner.memory_bounds import busy_within_memory_s, least_excess_bytes
from meshwright.planner.point import PointProblem
from meshwright.planner.stage_totals import peak_memory_bytes, tables

FAST = Choice(key="fast", forward_s=1.0, backward_s=2.0, dgrad_s=1.0, wgrad_s=1.0, kept_bytes=8.0, static_bytes=4.0)
LEAN = Choice(key="lean", forward_s=1.0, backward_s=3.0, dgrad_s=2.0, wgrad_s=1.0, kept_bytes=2.0, static_bytes=4.0)


def _problem(limit_bytes: float, num_layers: int = 2, choices: tuple[Choice, ...] = (FAST, LEAN)) -> PointProblem:
    return PointProblem(
        kind=ScheduleKind.ONE_F_ONE_B,
        num_stages=1,
        num_micro_batches=4,
        layer_types=(0,) * num_layers,
        choices=(choices,),
        memory_limit_bytes=limit_bytes,
    )


@pytest.mark.parametrize(
    ("limit_bytes", "busy_s"),
    [
        (24.0, 6.0),  # both layers fast: 2 (4 + 8)
        (18.0, 7.0),  # one of each
        (21.0, 6.5),  # half a layer is lean
        (12.0, 8.0),  # both lean
        (11.9, float("inf")),
    ],
)
def test_layers_exchange_time_for_bytes_in_any_proportion(limit_bytes: float, busy_s: float) -> None:
    assert list(busy_within_memory_s(_problem(limit_bytes), (0, 2))) == pytest.approx([busy_s])


def test_the_cheapest_byte_is_saved_first_and_mixtures_beat_bad_choices() -> None:
    middling = msgspec.structs.replace(LEAN, key="middling", backward_s=2.9, kept_bytes=7.0)
    problem = _problem(21.0, choices=(FAST, middling, LEAN))
    assert list(busy_within_memory_s(problem, (0, 2))) == pytest.approx([6.5])


def test_ends_and_transients_take_their_room() -> None:
    head = EndCost(forward_s=0.5, backward_s=1.0, dgrad_s=0.5, wgrad_s=0.5, static_bytes=3.0, kept_bytes=1.0)
    passing = tuple(msgspec.structs.replace(choice, transient_bytes=2.0) for choice in (FAST, LEAN))
    problem = msgspec.structs.replace(_problem(24.0 + 6.0, choices=passing), last=head)
    assert list(busy_within_memory_s(problem, (0, 2))) == pytest.approx([6.0 + 1.5])
    tighter = msgspec.structs.replace(problem, memory_limit_bytes=30.0 - 6.0)
    assert list(busy_within_memory_s(tighter, (0, 2))) == pytest.approx([7.0 + 1.5])


PIPES = [
    (ScheduleKind.ONE_F_ONE_B, 1, 1),
    (ScheduleKind.ONE_F_ONE_B, 2, 1),
    (ScheduleKind.INTERLEAVED, 2, 2),
    (ScheduleKind.ZB_V, 2, 2),
]
seconds = st.integers(1, 9).map(float)
sizes = st.integers(0, 9).map(float)
choices = st.builds(
    Choice,
    key=st.integers(),
    forward_s=seconds,
    backward_s=seconds,
    dgrad_s=seconds,
    wgrad_s=seconds,
    static_bytes=sizes,
    kept_bytes=sizes,
    transient_bytes=sizes,
)


@settings(max_examples=60)
@given(
    pipe=st.sampled_from(PIPES),
    given_choices=st.lists(choices, min_size=1, max_size=3),
    num_micro_batches=st.sampled_from((2, 4, 6)),
    room=st.integers(0, 200),
)
def test_no_assignment_that_fits_keeps_a_device_less_busy(
    pipe: tuple[ScheduleKind, int, int], given_choices: list[Choice], num_micro_batches: int, room: int
) -> None:
    kind, num_stages, virtual_stages = pipe
    stages = num_stages * virtual_stages
    problem = PointProblem(
        kind=kind,
        num_stages=num_stages,
        num_micro_batches=num_micro_batches,
        virtual_stages=virtual_stages,
        layer_types=(0,) * 4,
        choices=(tuple(given_choices),),
        memory_limit_bytes=float(room),
        boundaries=tuple(range(0, 5, 4 // stages)),
    )
    bounds_s = busy_within_memory_s(problem, problem.boundaries)
    names = ("forward_s", "dgrad_s", "wgrad_s") if problem.is_split else ("forward_s", "backward_s")
    for chosen in product(range(len(given_choices)), repeat=4):
        counts = np.zeros((stages, len(given_choices)), dtype=np.int64)
        for layer, choice in enumerate(chosen):
            counts[layer * stages // 4, choice] += 1
        if peak_memory_bytes(problem, counts).max() > room:
            continue
        busy = counts @ sum(tables(problem).column(name) for name in names)
        for device, chunks in enumerate(problem.placement):
            assert bounds_s[device] <= busy[list(chunks)].sum() * (1 + 1e-9)


@settings(max_examples=120)
@given(
    pipe=st.sampled_from(PIPES),
    given_choices=st.lists(choices, min_size=2, max_size=3),
    num_micro_batches=st.sampled_from((2, 4, 6)),
    limit=st.integers(1, 120),
    free=st.booleans(),
    two_types=st.booleans(),
    head_bytes=st.integers(0, 9),
)
def test_no_assignment_exceeds_the_limit_by_less(
    pipe: tuple[ScheduleKind, int, int],
    given_choices: list[Choice],
    num_micro_batches: int,
    limit: int,
    free: bool,
    two_types: bool,
    head_bytes: int,
) -> None:
    kind, num_stages, virtual_stages = pipe
    stages = num_stages * virtual_stages
    even = tuple(range(0, 5, 4 // stages))
    head = EndCost(static_bytes=float(head_bytes), kept_bytes=float(head_bytes), transient_bytes=float(head_bytes))
    problem = PointProblem(
        kind=kind,
        num_stages=num_stages,
        num_micro_batches=num_micro_batches,
        virtual_stages=virtual_stages,
        layer_types=(1, 0, 0, 0) if two_types else (0,) * 4,
        choices=(tuple(given_choices[1:]), tuple(given_choices[:1])) if two_types else (tuple(given_choices),),
        last=head,
        memory_limit_bytes=float(limit),
        boundaries=even if virtual_stages > 1 else (),
    )
    splits = [even]
    if num_stages == 2 and virtual_stages == 1 and free:
        splits = [(0, first, 4) for first in (1, 2, 3, 4)]
    boundaries = problem.boundaries or (() if num_stages > 1 else even)
    excess = least_excess_bytes(problem, boundaries)
    column = {item: index for index, item in enumerate(tables(problem).items)}
    ways = [range(len(problem.choices[layer_type])) for layer_type in problem.layer_types]
    for split, chosen in product(splits, product(*ways)):
        counts = np.zeros((stages, len(column)), dtype=np.int64)
        for stage in range(stages):
            for layer in range(split[stage], split[stage + 1]):
                counts[stage, column[problem.layer_types[layer], chosen[layer]]] += 1
        over = peak_memory_bytes(problem, counts).max() - limit
        assert excess <= max(0.0, over) + 1e-6


def test_what_is_missing_with_layers_at_their_leanest() -> None:
    assert least_excess_bytes(_problem(11.5), (0, 2)) == pytest.approx(0.5)  # both lean: 2 (4 + 2)
    assert least_excess_bytes(_problem(12.0), (0, 2)) == 0.0


def test_a_free_split_needs_room_for_whole_layers() -> None:
    problem = msgspec.structs.replace(_problem(11.0, num_layers=3), num_stages=2)
    # Stage 0 holds two micro-batches: one layer of 4 + 2 x 2; stage 1 one: a layer of 4 + 2, two with another byte.
    assert least_excess_bytes(problem, ()) == pytest.approx(1.0, abs=1e-6)
    assert least_excess_bytes(msgspec.structs.replace(problem, memory_limit_bytes=12.0), ()) == 0.0


def test_a_device_without_layers_of_a_type_need_not_pass_what_these_do() -> None:
    """The first layer passes 1 byte and keeps none, the others hold 1: of two devices with 2 bytes both have room."""
    bare = msgspec.structs.replace(LEAN, kept_bytes=0.0, static_bytes=0.0)
    passing = msgspec.structs.replace(bare, transient_bytes=1.0)
    holding = tuple(msgspec.structs.replace(bare, **{name: 1.0}) for name in ("kept_bytes", "static_bytes"))
    problem = PointProblem(
        kind=ScheduleKind.ONE_F_ONE_B,
        num_stages=2,
        num_micro_batches=2,
        virtual_stages=1,
        layer_types=(1, 0, 0, 0),
        choices=(holding, (passing,)),
        memory_limit_bytes=2.0,
    )
    assert least_excess_bytes(problem, ()) == 0.0
    assert 0.0 < least_excess_bytes(msgspec.structs.replace(problem, memory_limit_bytes=1.0), ()) <= 1.0
