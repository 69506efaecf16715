from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwright.costmodel.data_parallel import Sharding
from meshwright.costmodel.simulate import ScheduleKind
from meshwright.costmodel.strategy import Mesh
from meshwright.planner.codesign.budget import Measure
from meshwright.planner.codesign.outcome import Front, ShapeOutcome, ShapePlan, Status
from meshwright.planner.codesign.pareto import default_capacity, with_fronts

PLAN = ShapePlan(
    mesh=Mesh(dp=8),
    schedule=ScheduleKind.ONE_F_ONE_B,
    virtual_stages=1,
    micro_batch_size=1,
    sharding=Sharding(),
    recompute=("none",),
    step_time_s=1.0,
    gap=0.0,
    tokens_per_s=1.0,
    tokens_per_s_per_gpu=1.0,
    mfu=0.4,
    peak_memory_bytes=1.0,
    memory_limit_bytes=2.0,
    days=1.0,
    gpu_hours=1.0,
    cost=None,
)


def _row(step_s: float | None, total: int, gap: float = 0.0) -> ShapeOutcome:
    plan = None if step_s is None else msgspec.structs.replace(PLAN, step_time_s=step_s, gap=gap)
    return ShapeOutcome(
        name=f"{total}",
        is_base=False,
        sizes={},
        status=Status.INFEASIBLE if plan is None else Status.PLANNED,
        reason="",
        total_parameters=total,
        active_parameters=1,
        flops_per_token=1.0,
        budget_excess=0.0,
        plan=plan,
    )


def _fronts(*rows: ShapeOutcome, tolerance_fraction: float = 0.0) -> list[Front]:
    return [row.front for row in with_fronts(rows, Measure.PARAMETERS, tolerance_fraction)]


def test_larger_and_slower_is_a_choice_smaller_and_slower_is_none() -> None:
    assert _fronts(_row(1.0, 10), _row(2.0, 20), _row(2.5, 15)) == [Front.ON, Front.ON, Front.OFF]


def test_as_large_but_slower_is_beaten() -> None:
    assert _fronts(_row(1.0, 10), _row(1.1, 10)) == [Front.ON, Front.OFF]


def test_equals_are_both_on_the_front() -> None:
    assert _fronts(_row(1.0, 10), _row(1.0, 10)) == [Front.ON, Front.ON]


def test_capacities_within_the_tolerance_of_the_budget_are_alike() -> None:
    """A few parameters more, which are a rounding of the budget, are no reason to take an eighth longer."""
    rows = _row(1.0, 1000), _row(1.125, 1003)
    assert _fronts(*rows) == [Front.ON, Front.ON]
    assert _fronts(*rows, tolerance_fraction=0.02) == [Front.ON, Front.OFF]
    assert _fronts(*rows, _row(2.0, 1100), tolerance_fraction=0.02) == [Front.ON, Front.OFF, Front.ON]


def test_what_the_search_leaves_open_may_be_on_the_front() -> None:
    assert _fronts(_row(1.0, 10), _row(1.005, 10, gap=0.01)) == [Front.ON, Front.NEAR]
    assert _fronts(_row(1.0, 10), _row(1.02, 10, gap=0.01)) == [Front.ON, Front.OFF]


def test_what_has_no_plan_beats_nothing() -> None:
    assert _fronts(_row(None, 99), _row(1.0, 10)) == [Front.NONE, Front.ON]


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=12))
def test_the_front_beats_or_equals_everything(points: list[tuple[int, int]]) -> None:
    rows = with_fronts([_row(float(step), total) for step, total in points], Measure.PARAMETERS, 0.0)
    front = [point for row, point in zip(rows, points, strict=True) if row.front is Front.ON]
    assert front
    for row, (step, total) in zip(rows, points, strict=True):
        at_least = [other for other in front if other[0] <= step and other[1] >= total]
        assert at_least
        assert (row.front is Front.ON) == (set(at_least) == {(step, total)})


@pytest.mark.parametrize(
    ("hold", "capacity"),
    [
        (Measure.PARAMETERS, Measure.ACTIVE_PARAMETERS),
        (Measure.ACTIVE_PARAMETERS, Measure.PARAMETERS),
        (Measure.FLOPS, Measure.PARAMETERS),
    ],
)
def test_capacity_is_what_is_not_held(hold: Measure, capacity: Measure) -> None:
    assert default_capacity(hold) is capacity
