from __future__ import annotations

from collections.abc import Callable

import pytest

from meshwright.costmodel.formulas.fusion import fused_s
from meshwright.costmodel.order.pass_problem import PassProblem
from meshwright.costmodel.overlap import OverlapLevel

Make = Callable[..., PassProblem]


def _pairs(problem: PassProblem) -> list[str]:
    return [" ".join(problem.operators[index].name for index in pair.members) for pair in problem.pairs]


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        # MegaScale-MoE, section 4.2: the four pairs.
        (("gemm", "sp exchange"), ["0 1"]),
        (("sp exchange", "gemm"), ["0 1"]),
        (("ep gather", "memory", "grouped"), ["0 1 2"]),
        (("grouped", "memory", "ep scatter"), ["0 1 2"]),
        # Tensor parallelism.
        (("tp gather", "gemm"), ["0 1"]),
        (("gemm", "tp scatter"), ["0 1"]),
        (("tp gather", "memory", "grouped"), ["0 1 2"]),
        (("grouped", "memory", "tp scatter"), ["0 1 2"]),
        (("gemm", "memory", "memory", "sp exchange"), ["0 1 2 3"]),
        # Ring attention, also between nodes.
        (("cp ring", "attention"), ["0 1"]),
        (("cp ring, nodes", "attention"), ["0 1"]),
        # A communication between two products can go with either.
        (("gemm", "sp exchange", "gemm"), ["0 1", "1 2"]),
        (("gemm", "tp scatter", "memory", "tp gather", "gemm"), ["0 1", "3 4"]),
        # No kernels.
        (("gemm", "ep exchange"), []),
        (("ep exchange", "grouped"), []),
        (("gemm", "tp gather"), []),
        (("tp scatter", "gemm"), []),
        (("sp exchange", "grouped"), []),
        (("sp exchange", "attention"), []),
        (("gemm", "ep scatter"), []),
        (("tp gather, nodes", "gemm"), []),
        (("ep exchange, nodes", "grouped"), []),
        (("tp gather", "attention", "gemm"), []),
    ],
)
def test_pairs_of_a_chain(made_up_pass: Make, kinds: tuple[str, ...], expected: list[str]) -> None:
    lines = [(str(index), kind, (str(index - 1),), 1.0) for index, kind in enumerate(kinds)]
    assert _pairs(made_up_pass(*lines, level=OverlapLevel.FUSED)) == expected
    for level in (OverlapLevel.NONE, OverlapLevel.INTER_OPERATOR, OverlapLevel.INTER_BATCH):
        assert _pairs(made_up_pass(*lines, level=level)) == []


def test_a_wgrad_is_never_fused(made_up_pass: Make) -> None:
    """The gathered gradient goes with its dgrad, whichever comes first."""
    problem = made_up_pass(
        ("gather", "tp gather", ("grad",), 1.0),
        ("wgrad", "wgrad", ("gather",), 1.0),
        ("dgrad", "dgrad", ("gather",), 1.0),
        level=OverlapLevel.FUSED,
    )
    assert _pairs(problem) == ["gather dgrad"]
    alone = made_up_pass(
        ("gather", "tp gather", ("grad",), 1.0), ("wgrad", "wgrad", ("gather",), 1.0), level=OverlapLevel.FUSED
    )
    assert _pairs(alone) == []


def test_the_nearest_product_is_fused(made_up_pass: Make) -> None:
    problem = made_up_pass(
        ("far", "gemm", ("x",), 1.0),
        ("near", "gemm", ("far",), 1.0),
        ("scatter", "tp scatter", ("near",), 1.0),
        ("gather", "tp gather", ("scatter",), 1.0),
        ("first", "gemm", ("gather",), 1.0),
        ("second", "gemm", ("gather",), 1.0),
        level=OverlapLevel.FUSED,
    )
    assert _pairs(problem) == ["near scatter", "gather first"]


def test_what_the_product_does_not_need_stays_outside(made_up_pass: Make) -> None:
    problem = made_up_pass(
        ("gather", "ep gather", ("x",), 1.0),
        ("cast", "memory", ("gather",), 1.0),
        ("sort", "memory", ("gather",), 1.0),
        ("product", "grouped", ("sort",), 1.0),
        level=OverlapLevel.FUSED,
    )
    assert _pairs(problem) == ["gather sort product"]


def test_no_kernel_runs_round_another_operator(made_up_pass: Make) -> None:
    """The attention needs the product and the memory-bound operator needs the attention: no kernel has both ends."""
    problem = made_up_pass(
        ("product", "gemm", ("x",), 1.0),
        ("attention", "attention", ("product",), 1.0),
        ("add", "memory", ("product", "attention"), 1.0),
        ("scatter", "tp scatter", ("add",), 1.0),
        level=OverlapLevel.FUSED,
    )
    assert _pairs(problem) == []


@pytest.mark.parametrize(
    ("product_s", "between_s", "communication_s", "loss", "stretch", "expected"),
    [
        # All that may hide hides: 10 + 5 - 4, no interference.
        (10.0, 0.0, 5.0, 0.0, 1.0, (11.0, 4.0, 0.0)),
        # 4 hidden seconds last 4.8, in which the product loses a fifth of its speed: 0.2 x 1.2 x 4.
        (10.0, 0.0, 5.0, 0.2, 1.2, (11.96, 4.0, 0.96)),
        # The memory-bound operator in the kernel hides nothing.
        (10.0, 3.0, 5.0, 0.2, 1.2, (14.96, 4.0, 0.96)),
        # A product of 2 s lasts 2.5 beside communication, of which 2.5 / 1.2 gets done: 2 + 10 - h + 0.5.
        (2.0, 0.0, 10.0, 0.2, 1.2, (2.0 + 10.0 - 2.5 / 1.2 + 0.5, 2.5 / 1.2, 0.5)),
    ],
)
def test_seconds_of_a_fused_kernel(
    product_s: float,
    between_s: float,
    communication_s: float,
    loss: float,
    stretch: float,
    expected: tuple[float, float, float],
) -> None:
    found = fused_s(product_s, between_s, communication_s, share=0.8, loss=loss, stretch=stretch)
    assert found == pytest.approx(expected)
