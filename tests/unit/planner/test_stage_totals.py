from __future__ import annotations

import msgspec
import numpy as np
import pytest

from meshwright.costmodel.simulate import OverlapPolicy, ScheduleKind, Term
from meshwright.planner.choice import Choice, EndCost
from meshwright.planner.point import PointProblem
from meshwright.planner.stage_totals import durations, longest_path, peak_memory_bytes, step_time_s

FAST = Choice(
    key="fast",
    forward_s=1.0,
    backward_s=2.0,
    dgrad_s=1.2,
    wgrad_s=0.9,
    grad_reduce_s=0.5,
    optimizer_s=0.1,
    static_bytes=10.0,
    kept_bytes=4.0,
)
LEAN = msgspec.structs.replace(FAST, key="lean", backward_s=3.0, dgrad_s=2.2, kept_bytes=1.0, transient_bytes=6.0)
PROBLEM = PointProblem(
    kind=ScheduleKind.ONE_F_ONE_B,
    num_stages=2,
    num_micro_batches=4,
    layer_types=(0, 0, 0, 0),
    choices=((FAST, LEAN),),
    first=EndCost(static_bytes=3.0, transient_bytes=5.0),
    last=EndCost(forward_s=0.5, backward_s=1.0, kept_bytes=2.0),
    hops_s=(0.25,),
    barrier_s=0.01,
    overlap=OverlapPolicy(point_to_point=True, grad_reduce=False, param_gather=False),
    memory_limit_bytes=100.0,
    reserved_bytes=(7.0, 8.0),
)
COUNTS = np.array([[2, 0], [1, 1]])


def test_durations_add_up_layers_and_ends() -> None:
    seconds = durations(PROBLEM, COUNTS)
    assert seconds.of(Term.FORWARD).ravel() == pytest.approx([2.0, 2.5])
    backward = seconds.of(Term.BACKWARD_INPUT) + seconds.of(Term.BACKWARD_WEIGHT)
    assert backward.ravel() == pytest.approx([4.0, 6.0])
    assert seconds.of(Term.FORWARD_LAST_LAYER).ravel() == pytest.approx([2.0 / 3, 2.5 / 3])
    assert seconds.of(Term.OPTIMIZER) == pytest.approx([0.2, 0.2])


def test_a_split_backward_runs_its_own_times() -> None:
    seconds = durations(msgspec.structs.replace(PROBLEM, kind=ScheduleKind.ZB_H1), COUNTS)
    assert seconds.of(Term.BACKWARD_INPUT).ravel() == pytest.approx([2.4, 3.4])
    assert seconds.of(Term.BACKWARD_WEIGHT).ravel() == pytest.approx([1.8, 1.8])


def test_peak_memory_by_hand() -> None:
    first = 7.0 + (3.0 + 2 * 10.0) + 2 * (2 * 4.0) + 5.0
    last = 8.0 + 2 * 10.0 + 1 * (4.0 + 1.0 + 2.0) + 6.0
    assert peak_memory_bytes(PROBLEM, COUNTS) == pytest.approx([first, last])


def test_the_step_is_as_long_as_its_longest_path() -> None:
    time_s, path = longest_path(PROBLEM, COUNTS)
    assert time_s == pytest.approx(step_time_s(PROBLEM, COUNTS))
    assert path.length_s(durations(PROBLEM, COUNTS[::-1])) <= step_time_s(PROBLEM, COUNTS[::-1])
