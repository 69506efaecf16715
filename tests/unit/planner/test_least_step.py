"""The bound by simulation against the simulation of every assignment."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.costmodel.simulate import ScheduleKind
from meshwright.planner.choice import Choice, EndCost
from meshwright.planner.least_step import least_step_s
from meshwright.planner.point import PointProblem
from meshwright.planner.stage_totals import step_time_s

NUM_LAYERS = 4
PIPES = [
    (ScheduleKind.ONE_F_ONE_B, 1, 1),
    (ScheduleKind.INTERLEAVED, 2, 2),
    (ScheduleKind.ZB_V, 2, 2),
    (ScheduleKind.DUALPIPE_V, 2, 2),
]
seconds = st.integers(1, 9).map(float)
once = st.integers(0, 20).map(float)


@st.composite
def choices(draw: st.DrawFn) -> Choice:
    forward_s = draw(seconds)
    return Choice(
        key=None,
        forward_s=forward_s,
        backward_s=draw(seconds),
        dgrad_s=draw(seconds),
        wgrad_s=draw(seconds),
        param_gather_s=draw(once),
        grad_reduce_s=draw(once),
        gather_slowdown_s=draw(once),
        reduce_slowdown_s=draw(once),
        optimizer_s=draw(once),
        overlap_saving_s=draw(st.floats(0.0, 1.0)) * forward_s,
    )


ends = st.builds(EndCost, forward_s=seconds, backward_s=seconds, dgrad_s=seconds, wgrad_s=seconds, grad_reduce_s=once)


@settings(max_examples=80, deadline=None)
@given(
    pipe=st.sampled_from(PIPES),
    given_choices=st.lists(choices(), min_size=1, max_size=3),
    head=st.none() | ends,
    num_micro_batches=st.sampled_from((2, 4, 6)),
)
def test_no_assignment_is_faster(
    pipe: tuple[ScheduleKind, int, int], given_choices: list[Choice], head: EndCost | None, num_micro_batches: int
) -> None:
    problem = _problem(pipe, given_choices, head, max(num_micro_batches, 4 if pipe[1] > 1 else 1))
    bound_s = least_step_s(problem, problem.boundaries)
    share = NUM_LAYERS // problem.num_virtual_stages
    for chosen in product(range(len(given_choices)), repeat=NUM_LAYERS):
        counts = np.zeros((problem.num_virtual_stages, len(given_choices)), dtype=np.int64)
        for layer, choice in enumerate(chosen):
            counts[layer // share, choice] += 1
        assert bound_s <= step_time_s(problem, counts) * (1 + 1e-9)


@pytest.mark.parametrize("pipe", PIPES)
def test_a_single_choice_takes_just_that(pipe: tuple[ScheduleKind, int, int]) -> None:
    only = Choice(key=None, forward_s=2.0, backward_s=3.0, dgrad_s=2.0, wgrad_s=1.0, overlap_saving_s=0.5)
    problem = _problem(pipe, [only], None, 4)
    share = NUM_LAYERS // problem.num_virtual_stages
    counts = np.full((problem.num_virtual_stages, 1), share, dtype=np.int64)
    assert least_step_s(problem, problem.boundaries) == pytest.approx(step_time_s(problem, counts))


def _problem(
    pipe: tuple[ScheduleKind, int, int], given_choices: list[Choice], head: EndCost | None, num_micro_batches: int
) -> PointProblem:
    kind, num_stages, virtual_stages = pipe
    return PointProblem(
        kind=kind,
        num_stages=num_stages,
        num_micro_batches=num_micro_batches,
        virtual_stages=virtual_stages,
        layer_types=(0,) * NUM_LAYERS,
        choices=(tuple(given_choices),),
        last=head,
        memory_limit_bytes=1.0,
        boundaries=tuple(range(0, NUM_LAYERS + 1, NUM_LAYERS // (num_stages * virtual_stages))),
    )
