from __future__ import annotations

from collections.abc import Callable

import pytest

from meshwright.costmodel.order.fusion import FusedPair
from meshwright.costmodel.order.grouping import (
    are_compatible,
    grouping_of,
    switched,
    tails_s,
    unit_times_s,
    with_fused,
)
from meshwright.costmodel.order.pass_problem import NO_LINK, PassProblem
from meshwright.costmodel.overlap import OverlapLevel

Make = Callable[..., PassProblem]


@pytest.fixture
def problem(made_up_pass: Make) -> PassProblem:
    """x -> gather (4) -> sort (1) -> product (10) -> scatter (5) -> add (2), and a wgrad (3) of the gathered."""
    return made_up_pass(
        ("gather", "ep gather", ("x",), 4.0),
        ("wgrad", "grouped wgrad", ("gather",), 3.0),
        ("sort", "memory", ("gather",), 1.0),
        ("product", "grouped", ("sort",), 10.0),
        ("scatter", "ep scatter", ("product",), 5.0),
        ("add", "memory", ("scatter",), 2.0),
        level=OverlapLevel.FUSED,
    )


def test_without_fused_kernels_launches_are_operators(problem: PassProblem) -> None:
    grouping = grouping_of(problem)
    assert grouping.groups == tuple((index,) for index in range(6))
    assert grouping.before == ((), (0,), (0,), (2,), (3,), (4,))
    assert grouping.after == ((1, 2), (), (3,), (4,), (5,), ())
    assert unit_times_s(problem, grouping) == [4.0, 3.0, 1.0, 10.0, 5.0, 2.0]
    assert tails_s(grouping, unit_times_s(problem, grouping)) == [22.0, 3.0, 18.0, 17.0, 7.0, 2.0]


def test_a_fused_kernel_takes_its_operators_together(problem: PassProblem) -> None:
    first, second = problem.pairs
    assert (first.members, second.members) == ((0, 2, 3), (3, 4))
    grouping = grouping_of(problem, (first,))
    assert grouping.groups == ((0, 2, 3), (1,), (4,), (5,))
    assert grouping.pairs == (first, None, None, None)
    assert grouping.before == ((), (0,), (0,), (2,)), "the wgrad waits for the whole kernel"
    assert grouping.on_compute == (True, True, False, True)
    assert grouping.link[0] == grouping.link[2] != NO_LINK
    # 10 s of product, 1 s of sort, and the fifth of 4 s that has nothing to hide under.
    assert unit_times_s(problem, grouping) == pytest.approx([11.8, 3.0, 5.0, 2.0])


def test_a_kernel_comes_after_all_that_it_waits_for(made_up_pass: Make) -> None:
    """The second product reads what stands behind the communication in program order."""
    problem = made_up_pass(
        ("gather", "tp gather", ("x",), 1.0),
        ("gate", "attention", ("x",), 1.0),
        ("product", "gemm", ("gather", "gate"), 1.0),
        level=OverlapLevel.FUSED,
    )
    grouping = grouping_of(problem, problem.pairs)
    assert grouping.groups == ((1,), (0, 2))
    assert grouping.before == ((), (0,))


def test_switching_a_pair_undoes_what_it_excludes(problem: PassProblem) -> None:
    first, second = problem.pairs
    assert not are_compatible((first, second))
    assert switched((), first) == (first,)
    assert switched((first,), first) == ()
    assert switched((first,), second) == (second,)
    other = FusedPair(members=(4, 5), communication=4, product=5)
    assert switched((first,), other) == (first, other)


def test_a_choice_of_kernels_is_a_problem_of_its_own(problem: PassProblem) -> None:
    grouping = grouping_of(problem, problem.pairs[:1])
    fused = with_fused(problem, grouping)
    assert fused.pairs == ()
    assert fused.link == (NO_LINK, NO_LINK, grouping.link[2], NO_LINK)
    assert fused.time_s == pytest.approx((11.8, 3.0, 5.0, 2.0))
    assert fused.occupied_s == pytest.approx((0.0, 11.8, 0.0, 0.0))
    (scatter,) = fused.shape.communications
    assert scatter.beside == 0b0010, "only the wgrad"
