from __future__ import annotations

import msgspec
import pytest

from meshwright.costmodel.simulate import ScheduleKind
from meshwright.planner.choice import Choice, EndCost
from meshwright.planner.cutting_planes import solve_point
from meshwright.planner.point import MemoryShortfall, PointProblem, PointStatus, TooFewLayers

FULL = Choice(
    key="recompute", forward_s=1.0, backward_s=3.0, dgrad_s=2.0, wgrad_s=1.0, static_bytes=10.0, kept_bytes=1.0
)
KEEP = msgspec.structs.replace(FULL, key="keep", backward_s=2.0, dgrad_s=1.0, kept_bytes=5.0)


def pipeline(num_layers: int, limit: float, num_stages: int = 4) -> PointProblem:
    return PointProblem(
        kind=ScheduleKind.ONE_F_ONE_B,
        num_stages=num_stages,
        num_micro_batches=16,
        layer_types=(0,) * num_layers,
        choices=((FULL, KEEP),),
        memory_limit_bytes=limit,
    )


def test_equal_stages_give_the_closed_form() -> None:
    solution = solve_point(pipeline(8, 1e3))
    assert solution.status is PointStatus.OPTIMAL
    assert solution.layers_per_virtual_stage == (2, 2, 2, 2)
    assert solution.step_time_s == pytest.approx((16 + 3) * 2 * 3.0)


def test_layers_leave_the_stage_with_a_heavy_head() -> None:
    head = EndCost(forward_s=2.0, backward_s=4.0, dgrad_s=2.0, wgrad_s=2.0)
    solution = solve_point(msgspec.structs.replace(pipeline(10, 1e3), last=head), relative_gap=0.0)
    assert solution.layers_per_virtual_stage == (3, 3, 3, 1)


def test_the_first_stages_recompute_where_memory_binds() -> None:
    """Stage p holds 4 - p micro-batches: with 45 bytes, two layers that keep (10 a micro-batch) fit from stage 2 on."""
    solution = solve_point(pipeline(8, 45.0), relative_gap=0.0)
    keeping = [sum(entry.count for entry in stage if entry.choice == 1) for stage in solution.assignment]
    assert keeping[2:] == [2, 2]
    assert keeping[0] < 2
    assert max(solution.peak_memory_bytes) <= 45.0


def test_says_which_stage_lacks_how_many_bytes() -> None:
    """Two layers a stage need at least 20 of state and 2 for each of stage 0's 4 micro-batches in flight."""
    solution = solve_point(pipeline(8, 25.0))
    assert solution.status is PointStatus.INFEASIBLE
    assert isinstance(solution.reason, MemoryShortfall)
    assert solution.reason.device == 0
    assert solution.reason.needed_bytes == pytest.approx(28.0)
    assert solution.reason.over_bytes == pytest.approx(3.0)
    assert "pipeline stage 0" in str(solution.reason)
    assert solution.gap == float("inf")


def test_too_few_layers() -> None:
    reason = solve_point(pipeline(3, 1e3)).reason
    assert reason == TooFewLayers(num_layers=3, needed_layers=4)
    assert str(reason) == "3 layers, but the virtual stages need 4"


def test_a_stage_may_hold_an_embedding_alone() -> None:
    with_embedding = msgspec.structs.replace(pipeline(3, 1e3), first=EndCost(forward_s=1.0, backward_s=2.0))
    assert solve_point(with_embedding).layers_per_virtual_stage == (0, 1, 1, 1)


def test_a_hopeless_cutoff_costs_no_solution() -> None:
    solution = solve_point(pipeline(8, 45.0), cutoff_s=50.0)
    assert solution.status is PointStatus.CUT_OFF
    assert solution.lower_bound_s >= 50.0 * (1 - 1e-3)


def test_alternating_types_are_cut_anywhere() -> None:
    problem = msgspec.structs.replace(
        pipeline(6, 1e3, num_stages=2), layer_types=(0, 1) * 3, choices=((KEEP,), (KEEP,))
    )
    solution = solve_point(problem, relative_gap=0.0)
    assert solution.layers_per_virtual_stage == (3, 3)
    assert [[(e.layer_type, e.count) for e in stage] for stage in solution.assignment] == [
        [(0, 2), (1, 1)],
        [(0, 1), (1, 2)],
    ]


def test_two_solves_are_equal() -> None:
    assert solve_point(pipeline(9, 45.0)) == solve_point(pipeline(9, 45.0))


def test_little_effort_gives_a_bound_that_holds_and_the_same_one_again() -> None:
    choices = ((FULL, KEEP), (msgspec.structs.replace(FULL, forward_s=1.7), KEEP))
    problem = msgspec.structs.replace(pipeline(11, 43.0), layer_types=(0, 1) * 5 + (0,), choices=choices)
    optimum = solve_point(problem, relative_gap=0.0)
    little, again = (solve_point(problem, relative_gap=0.0, effort=2.0) for _ in range(2))
    assert little == again
    assert little.status is not PointStatus.OPTIMAL
    assert little.lower_bound_s <= optimum.step_time_s <= little.step_time_s
