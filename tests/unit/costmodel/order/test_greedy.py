from __future__ import annotations

from collections.abc import Callable

import pytest

from meshwright.costmodel.order.greedy import Filling, Greedy
from meshwright.costmodel.order.grouping import grouping_of, tails_s, unit_times_s
from meshwright.costmodel.order.pass_problem import PassProblem
from meshwright.costmodel.overlap import OverlapLevel

Make = Callable[..., PassProblem]


def _greedy(problem: PassProblem, filling: Filling = Filling.FITTING, *, fused: bool = False) -> tuple[float, str]:
    grouping = grouping_of(problem, problem.pairs if fused else ())
    times_s = unit_times_s(problem, grouping)
    total_s, sequence = Greedy(problem, grouping, times_s, tails_s(grouping, times_s), filling).run()
    return total_s, " ".join(problem.operators[grouping.groups[number][0]].name for number in sequence)


def test_the_longest_path_goes_first(made_up_pass: Make) -> None:
    problem = made_up_pass(
        ("short", "gemm", ("x",), 2.0),
        ("short_end", "memory", ("short",), 1.0),
        ("long", "gemm", ("x",), 1.0),
        ("gather", "tp gather", ("long",), 5.0),
        ("end", "gemm", ("gather",), 1.0),
    )
    assert _greedy(problem) == (7.0, "long gather short short_end end")


@pytest.mark.parametrize(
    ("filling", "expected"),
    [
        (Filling.FITTING, "gather middle end small add large"),
        (Filling.LONGEST, "gather large end middle add small"),
        (Filling.SHORTEST, "gather small middle end add large"),
    ],
)
def test_fillers_run_where_the_path_waits(made_up_pass: Make, filling: Filling, expected: str) -> None:
    """Four seconds to fill with 1, 4 or 7: what starts is not interrupted, and the main path goes before fillers."""
    problem = made_up_pass(
        ("gather", "tp gather", ("x",), 4.0),
        ("end", "gemm", ("gather",), 1.0),
        ("large", "wgrad", ("y",), 7.0),
        ("middle", "wgrad", ("y",), 4.0),
        ("small", "wgrad", ("y",), 1.0),
        ("add", "memory", ("end",), 1.0),
    )
    total_s, order = _greedy(problem, filling)
    assert order == expected
    # Nothing ever idles: 14 s of computation in every order.
    assert total_s == pytest.approx(14.0)


def test_a_kernel_whose_link_is_busy_lets_others_go_before(made_up_pass: Make) -> None:
    problem = made_up_pass(
        ("scatter", "tp scatter", ("x",), 3.0),
        ("gather", "tp gather", ("x",), 5.0),
        ("product", "gemm", ("gather",), 10.0),
        ("other", "gemm", ("x",), 2.0),
        ("end", "memory", ("other",), 1.0),
        level=OverlapLevel.FUSED,
    )
    total_s, order = _greedy(problem, fused=True)
    assert order == "scatter other end gather"
    assert total_s == pytest.approx(3.0 + 11.0)
