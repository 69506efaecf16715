from __future__ import annotations

from itertools import combinations_with_replacement

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwright.costmodel.simulate import OverlapPolicy, ScheduleKind
from meshwright.planner.choice import Choice
from meshwright.planner.cutting_planes import solve_point
from meshwright.planner.device_curve import GRID, hull_chords, least_seconds
from meshwright.planner.incumbents import fitting_mix
from meshwright.planner.point import PointProblem, PointStatus
from meshwright.planner.stage_totals import peak_memory_bytes, step_time_s


def choice(forward_s: float, kept_bytes: float, transient_bytes: float) -> Choice:
    return Choice(
        key=(forward_s, kept_bytes),
        forward_s=forward_s,
        backward_s=forward_s,
        dgrad_s=0.0,
        wgrad_s=forward_s,
        kept_bytes=kept_bytes,
        transient_bytes=transient_bytes,
    )


def one_device(choices: tuple[Choice, ...], num_layers: int, limit: float) -> PointProblem:
    return PointProblem(
        kind=ScheduleKind.ONE_F_ONE_B,
        num_stages=1,
        num_micro_batches=3,
        layer_types=(0,) * num_layers,
        choices=(choices,),
        overlap=OverlapPolicy(point_to_point=False, grad_reduce=False, param_gather=False),
        memory_limit_bytes=limit,
    )


some_choices = st.lists(
    st.builds(choice, st.integers(1, 9).map(float), st.integers(0, 9).map(float), st.integers(0, 9).map(float)),
    min_size=1,
    max_size=4,
).map(tuple)


def least_by_trying(problem: PointProblem, num_layers: int) -> float:
    """The least seconds of one micro-batch over every mix that fits."""
    best = float("inf")
    for mix in combinations_with_replacement(problem.choices[0], num_layers):
        transient = max(used.transient_bytes for used in mix)
        if sum(used.kept_bytes for used in mix) + transient <= problem.memory_limit_bytes:
            best = min(best, sum(used.forward_s + used.backward_s for used in mix))
    return best


@given(some_choices, st.integers(1, 5), st.floats(1.0, 60.0))
def test_the_curve_is_a_lower_bound_and_nearly_exact(choices: tuple[Choice, ...], layers: int, limit: float) -> None:
    curve = least_seconds(one_device(choices, layers, limit), 0, 0)
    looser = limit * (1 + 2 * layers / GRID)
    for k in range(1, layers + 1):
        assert curve[k] <= least_by_trying(one_device(choices, layers, limit), k)
    if len({used.transient_bytes for used in choices}) == 1:
        for k in range(1, layers + 1):
            assert curve[k] >= least_by_trying(one_device(choices, layers, looser), k)


def test_chords_lie_below_the_points_and_touch_their_hull() -> None:
    curve = np.array([0.0, 2.0, 3.0, 7.0, 8.0, np.inf])
    chords = list(hull_chords(curve))
    hull = [max(slope * k + intercept for slope, intercept in chords) for k in range(5)]
    assert all(low <= point + 1e-12 for low, point in zip(hull, curve, strict=False))
    assert hull[0] == 0.0
    assert hull[4] == pytest.approx(8.0)


@given(some_choices, st.integers(1, 5), st.floats(1.0, 60.0))
def test_label_setting_and_integer_program_agree(choices: tuple[Choice, ...], layers: int, limit: float) -> None:
    problem = one_device(choices, layers, limit)
    mix = fitting_mix(problem, (layers,))
    solution = solve_point(problem, relative_gap=0.0)
    if mix is None:
        assert solution.status is PointStatus.INFEASIBLE
        return
    assert peak_memory_bytes(problem, mix).max() <= limit
    assert step_time_s(problem, mix) == pytest.approx(solution.step_time_s, rel=1e-6)
    assert solution.step_time_s == pytest.approx(3 * least_by_trying(problem, layers), rel=1e-6)
