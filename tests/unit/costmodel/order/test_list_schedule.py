from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from meshwright.costmodel.hardware import Interference
from meshwright.costmodel.order.list_schedule import in_program_order, launched, list_schedule
from meshwright.costmodel.order.pass_problem import PassProblem
from meshwright.costmodel.overlap import OverlapLevel

Make = Callable[..., PassProblem]


def _names(problem: PassProblem, order: Sequence[int]) -> str:
    return " ".join(problem.operators[index].name for index in order)


def test_a_pass_without_overlap_stays_in_program_order(made_up_pass: Make) -> None:
    problem = made_up_pass(
        ("b", "wgrad", ("x",), 1.0), ("a", "gemm", ("x",), 9.0), ("gather", "tp gather", ("a",), 1.0), level=NONE
    )
    assert _names(problem, launched(list_schedule(problem))) == "b a gather"


NONE = OverlapLevel.NONE


@pytest.mark.parametrize(
    ("wgrad_s", "total_s", "order"),
    [
        # Fused: 10 + 1, then 2. Apart: the wgrad hides 2 of 5: 5 + 10.
        (2.0, 13.0, "gather product wgrad"),
        # Fused: 11 + 6. Apart, all of the gather hides: 6 + 10.
        (6.0, 16.0, "gather wgrad product"),
    ],
)
def test_pairs_are_fused_where_that_is_faster(made_up_pass: Make, wgrad_s: float, total_s: float, order: str) -> None:
    problem = made_up_pass(
        ("gather", "tp gather", ("x",), 5.0),
        ("product", "gemm", ("gather",), 10.0),
        ("wgrad", "wgrad", ("y",), wgrad_s),
        level=OverlapLevel.FUSED,
    )
    found = list_schedule(problem)
    assert found.total_s == pytest.approx(total_s)
    assert _names(problem, launched(found)) == order


def test_it_is_never_slower_than_program_order(made_up_pass: Make) -> None:
    """Close to the bound, where it looks no further. What the rule finds starts `apart` beside the first gather and has
    none of it left to hide the second: 51.67 s; program order keeps it for later: 51.57 s."""
    costly = Interference(
        collective_sms=20, compute_slowdown=1.25, communication_slowdown=1.1, network_compute_slowdown=1.0
    )
    problem = made_up_pass(
        ("first", "tp gather", ("x",), 1.0),
        ("product", "gemm", ("first",), 40.0),
        ("apart", "gemm", ("x",), 1.0),
        ("second", "tp gather", ("product",), 10.0),
        ("end", "gemm", ("first",), 4.0),
        interference=costly,
    )
    assert in_program_order(problem).total_s == pytest.approx(51.568, abs=1e-3)
    assert list_schedule(problem).total_s <= in_program_order(problem).total_s


def test_the_fastest_order_that_fits_is_taken(made_up_pass: Make) -> None:
    problem = made_up_pass(
        ("wgrad", "wgrad", ("y",), 4.0),
        ("product", "gemm", ("x",), 1.0),
        ("gather", "tp gather", ("product",), 4.0),
        ("end", "memory", ("gather",), 1.0),
    )
    assert _names(problem, launched(list_schedule(problem))) == "product gather wgrad end"
    first = list_schedule(problem, fits=lambda order: order[0] == 0)
    assert _names(problem, launched(first)) == "wgrad product gather end"
    assert (list_schedule(problem).total_s, first.total_s) == (6.0, 10.0)
