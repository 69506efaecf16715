from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.order.launch_order import Launch, PassOrder
from meshwright.costmodel.order.ordered_pass import ordered_pass, serial_timeline
from meshwright.costmodel.order.pass_problem import PassProblem
from meshwright.costmodel.overlap import OverlapLevel
from meshwright.costmodel.program.operators import Resource

Make = Callable[..., PassProblem]


@pytest.fixture
def problem(made_up_pass: Make) -> PassProblem:
    """A gather (5) that can be fused with its product (10), and a wgrad (2) of something else."""
    return made_up_pass(
        ("gather", "tp gather", ("x",), 5.0),
        ("product", "gemm", ("gather",), 10.0),
        ("wgrad", "wgrad", ("y",), 2.0),
        level=OverlapLevel.FUSED,
    )


def _order(*launches: str) -> PassOrder:
    """Launches by the names of their operators. Streams are not looked at: they follow from the operators."""
    return PassOrder(
        launches=tuple(Launch(operators=tuple(names.split()), stream=Resource.COMPUTE) for names in launches)
    )


def test_without_an_order_the_best_that_list_scheduling_finds(problem: PassProblem) -> None:
    """Fused, the gather leaves a fifth exposed: 11 + 2. Apart, the wgrad hides 2 of it: 5 + 10."""
    found = ordered_pass(problem)
    assert found.total_s == pytest.approx(13.0)
    assert [launch.operators for launch in found.order().launches] == [("gather", "product"), ("wgrad",)]


def test_a_given_order_is_obeyed_however_bad(problem: PassProblem) -> None:
    assert ordered_pass(problem, _order("gather", "product", "wgrad")).total_s == pytest.approx(17.0)
    assert ordered_pass(problem, _order("gather", "wgrad", "product")).total_s == pytest.approx(15.0)
    assert ordered_pass(problem, _order("wgrad", "gather product")).total_s == pytest.approx(13.0)


def test_memory_can_forbid_an_order(problem: PassProblem) -> None:
    """Only program order itself fits."""
    found = ordered_pass(problem, fits=lambda order: list(order) == [0, 1, 2] and len(order) == 3)
    assert found.indices() == [0, 1, 2]
    none_fits = ordered_pass(problem, fits=lambda _: False)
    assert [op.name for op in none_fits.launched()] == ["gather", "product", "wgrad"]
    assert none_fits.total_s == pytest.approx(17.0), "program order, none fused"


@pytest.mark.parametrize(
    ("launches", "expected"),
    [
        (("gather", "product"), "wgrad is not launched"),
        (("gather", "product", "wgrad", "norm"), "norm is no operator of this pass"),
        (("product", "gather", "wgrad"), "launches product before gather, which it waits for"),
        (("gather wgrad", "product"), "no fused kernel runs gather, wgrad"),
        (("product gather", "wgrad"), "no fused kernel runs product, gather"),
    ],
)
def test_what_is_no_order_of_the_pass_is_refused(
    problem: PassProblem, launches: tuple[str, ...], expected: str
) -> None:
    with pytest.raises(StrategyError) as caught:
        ordered_pass(problem, _order(*launches))
    assert str(caught.value) == f"order: launches: {expected}"


def test_a_runtime_without_the_kernel_refuses_the_order(made_up_pass: Make) -> None:
    plain = made_up_pass(("gather", "tp gather", ("x",), 5.0), ("product", "gemm", ("gather",), 10.0))
    with pytest.raises(StrategyError, match="no fused kernel runs gather, product"):
        ordered_pass(plain, _order("gather product"))


def test_an_order_has_the_streams_and_sms_of_its_launches(problem: PassProblem) -> None:
    sized = PassOrder(
        launches=(
            Launch(operators=("gather",), stream=Resource.NVLINK, num_sms=0),
            Launch(operators=("wgrad",), stream=Resource.COMPUTE),
            Launch(operators=("product",), stream=Resource.COMPUTE),
        ),
        gap=0.5,
    )
    again = ordered_pass(problem, sized)
    assert again.order(0.5) == sized
    taking = msgspec.structs.replace(sized, launches=again.order().launches)
    assert ordered_pass(problem, taking).total_s == again.total_s


def test_a_timeline_shows_every_operator_on_its_stream(problem: PassProblem) -> None:
    fused = ordered_pass(problem, _order("gather product", "wgrad")).timeline()
    gather, product, wgrad = fused.spans
    assert (gather.name, gather.stream, gather.start_s, gather.end_s) == ("gather", Resource.NVLINK, 0.0, 11.0)
    assert (product.name, product.stream, product.start_s, product.end_s) == ("product", Resource.COMPUTE, 0.0, 11.0)
    assert (gather.fused_with, product.fused_with, wgrad.fused_with) == (("product",), ("gather",), ())
    assert (gather.is_communication, product.is_communication) == (True, False)
    assert (wgrad.start_s, wgrad.end_s, fused.end_s) == (11.0, 13.0, 13.0)
    assert fused.on_stream(Resource.NVLINK) == (gather,)
    assert fused.on_stream(Resource.COMPUTE) == (product, wgrad)


def test_without_overlap_operators_follow_each_other(problem: PassProblem) -> None:
    timeline = serial_timeline(problem)
    assert [(span.name, span.start_s, span.end_s) for span in timeline.spans] == [
        ("gather", 0.0, 5.0),
        ("product", 5.0, 15.0),
        ("wgrad", 15.0, 17.0),
    ]
    assert timeline.end_s == 17.0
