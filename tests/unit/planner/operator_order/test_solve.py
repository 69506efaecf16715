from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from meshwright.costmodel.order.grouping import grouping_of
from meshwright.costmodel.order.list_schedule import fits_always, in_program_order, launched
from meshwright.costmodel.order.pass_problem import PassProblem
from meshwright.costmodel.order.run_order import replay
from meshwright.costmodel.overlap import OverlapLevel
from meshwright.planner.operator_order import solve_pass
from meshwright.planner.operator_order.branch_and_bound import BranchAndBound
from meshwright.planner.operator_order.fused_choices import MOST_CHOICES, fused_choices
from meshwright.planner.operator_order.improve import improve

Make = Callable[..., PassProblem]


@pytest.fixture
def tricky(made_up_pass: Make) -> PassProblem:
    """The longest path first starts `long`, and then the gather waits: 7 + 4. The best starts `short` first: 8."""
    return made_up_pass(
        ("long", "gemm", ("x",), 4.0),
        ("long_end", "memory", ("long",), 3.0),
        ("short", "gemm", ("x",), 1.0),
        ("gather", "tp gather", ("short",), 4.0),
    )


def test_a_pass_without_overlap_is_its_own_proof(made_up_pass: Make) -> None:
    solved = solve_pass(made_up_pass(("a", "gemm", ("x",), 2.0), ("b", "gemm", ("a",), 3.0)))
    assert (solved.ordered.total_s, solved.lower_bound_s, solved.num_nodes) == (5.0, 5.0, 0)
    assert solved.is_proven
    assert solved.gap == 0.0


def test_the_best_order_is_found_and_proven(tricky: PassProblem) -> None:
    solved = solve_pass(tricky, num_replays=0)
    assert solved.ordered.total_s == pytest.approx(8.0)
    assert solved.is_proven


def test_local_search_moves_one_launch_at_a_time(tricky: PassProblem) -> None:
    start = in_program_order(tricky)
    assert start.total_s == pytest.approx(12.0)
    better = improve(tricky, start, fits_always, bound_s=0.0, num_replays=100)
    assert better.total_s == pytest.approx(8.0)
    assert improve(tricky, start, fits_always, bound_s=0.0, num_replays=0) is start
    assert improve(tricky, start, fits_always, bound_s=12.0, num_replays=100) is start, "at the bound it ends"
    assert improve(tricky, start, lambda _: False, bound_s=0.0, num_replays=100) is start


def test_without_effort_the_gap_is_stated(made_up_pass: Make) -> None:
    """Two exchanges in a row of which a wgrad may hide either: no bound knows without trying."""
    problem = made_up_pass(
        ("a", "gemm", ("x",), 3.0),
        ("first", "tp gather", ("a",), 3.0),
        ("b", "attention", ("first",), 2.0),
        ("second", "tp gather", ("b",), 5.0),
        ("c", "attention", ("second",), 1.0),
        ("w", "wgrad", ("a",), 4.0),
        ("v", "wgrad", ("first",), 4.0),
    )
    quick = solve_pass(problem, num_nodes=0, num_replays=0)
    full = solve_pass(problem)
    assert full.is_proven
    assert quick.lower_bound_s <= full.ordered.total_s <= quick.ordered.total_s
    assert quick.num_nodes == 0 < full.num_nodes or full.ordered.total_s == pytest.approx(quick.lower_bound_s)


def test_equal_passes_get_equal_orders(tricky: PassProblem) -> None:
    one, other = solve_pass(tricky), solve_pass(tricky)
    assert one.ordered.order(one.gap) == other.ordered.order(other.gap)


def test_what_memory_refused_is_not_claimed_to_be_proven(made_up_pass: Make) -> None:
    """a and b in either order lead to the same moment, but only a before b fits: the proof must not merge them."""
    problem = made_up_pass(
        ("d", "wgrad", ("y",), 4.0),
        ("a", "gemm", ("x",), 2.0),
        ("b", "gemm", ("x",), 3.0),
        ("gather", "tp gather", ("a", "b"), 4.0),
    )

    def fits(order: Sequence[int]) -> bool:
        return list(order).index(1) < list(order).index(2)

    best_s = 9.0
    grouping = grouping_of(problem)
    assert replay(problem, grouping, (1, 2, 3, 0)).total_s == best_s
    for num_replays in (0, 100):
        solved = solve_pass(problem, fits, num_replays=num_replays)
        assert fits(launched(solved.ordered.run))
        assert solved.lower_bound_s <= best_s <= solved.ordered.total_s


def test_branch_and_bound_keeps_to_its_cutoff(tricky: PassProblem) -> None:
    grouping = grouping_of(tricky)
    search = BranchAndBound(tricky, grouping, fits_always, cutoff_s=8.0, num_nodes=1000)
    assert 0 < search.run() <= 1000
    assert search.sequence == ()
    assert search.is_complete, "nothing is below 8"
    found = BranchAndBound(tricky, grouping, fits_always, cutoff_s=8.1, num_nodes=1000)
    found.run()
    assert replay(tricky, grouping, found.sequence).total_s == pytest.approx(found.best_s) == pytest.approx(8.0)
    short = BranchAndBound(tricky, grouping, fits_always, cutoff_s=100.0, num_nodes=1)
    assert short.run() == 1
    assert not short.is_complete


def _pairs(made_up_pass: Make, number: int) -> PassProblem:
    lines = [
        line
        for index in range(number)
        for line in (
            (f"gather{index}", "tp gather", ("x",), 1.0 + index),
            (f"product{index}", "gemm", (f"gather{index}",), 10.0),
        )
    ]
    return made_up_pass(*lines, level=OverlapLevel.FUSED)


def test_every_set_of_fused_kernels_is_a_choice(made_up_pass: Make) -> None:
    problem = _pairs(made_up_pass, 3)
    choices, is_complete = fused_choices(problem, ())
    assert is_complete
    assert len({frozenset(choice.pairs) for choice in choices}) == len(choices) == 2**3
    assert [choice.bound_s for choice in choices] == sorted(choice.bound_s for choice in choices)


def test_of_too_many_choices_only_the_neighbours_are_looked_at(made_up_pass: Make) -> None:
    problem = _pairs(made_up_pass, 7)
    assert MOST_CHOICES < 2**7
    around = problem.pairs[:3]
    choices, is_complete = fused_choices(problem, around)
    assert not is_complete
    assert len(choices) == 1 + 7
    assert all(len(set(choice.pairs) ^ set(around)) <= 1 for choice in choices)
    solved = solve_pass(problem, num_nodes=100, num_replays=50)
    assert solved.lower_bound_s <= solved.ordered.total_s
