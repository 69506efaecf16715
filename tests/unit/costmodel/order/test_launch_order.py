from __future__ import annotations

import msgspec
import pytest

from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.order.launch_order import Launch, LayerOrder, PassKind, PassOrder
from meshwright.costmodel.program.operators import Resource

NORM = Launch(operators=("norm",), stream=Resource.COMPUTE)
FUSED = Launch(operators=("gather", "product"), stream=Resource.COMPUTE, num_sms=20)
MOVED = Launch(operators=("dispatch",), stream=Resource.NETWORK, num_sms=4)


def test_an_order_lists_operators_and_streams() -> None:
    order = PassOrder(launches=(NORM, MOVED, FUSED))
    assert list(order.names()) == ["norm", "dispatch", "gather", "product"]
    assert order.on_stream(Resource.COMPUTE) == (NORM, FUSED)
    assert order.on_stream(Resource.NETWORK) == (MOVED,)
    assert order.on_stream(Resource.NVLINK) == ()
    assert order.gap == 1.0, "nothing is proven of an order that nobody solved"


def test_an_order_survives_json() -> None:
    order = LayerOrder(forward=PassOrder(launches=(NORM, FUSED), gap=0.25), joint=PassOrder(launches=(MOVED,)))
    assert msgspec.json.decode(msgspec.json.encode(order), type=LayerOrder) == order


@pytest.mark.parametrize("kind", list(PassKind))
def test_every_kind_of_pass_has_its_order(kind: PassKind) -> None:
    order = PassOrder(launches=(NORM,))
    layer = LayerOrder(**{kind.value: order})
    assert {other: layer.of(other) for other in PassKind} == {
        other: order if other is kind else None for other in PassKind
    }


def test_an_operator_is_launched_once() -> None:
    with pytest.raises(StrategyError, match="launches: launch norm twice"):
        PassOrder(launches=(NORM, FUSED, NORM))
    with pytest.raises(StrategyError, match="launch gather, product twice"):
        PassOrder(launches=(FUSED, Launch(operators=("product", "gather"), stream=Resource.COMPUTE)))


def test_a_launch_has_operators_and_takes_no_negative_share() -> None:
    with pytest.raises(StrategyError, match="is no launch"):
        Launch(operators=(), stream=Resource.COMPUTE)
    with pytest.raises(StrategyError, match="-1 SMs is no launch"):
        Launch(operators=("norm",), stream=Resource.COMPUTE, num_sms=-1)


@pytest.mark.parametrize("gap", [-0.1, 1.1, float("nan")])
def test_a_gap_is_a_share(gap: float) -> None:
    with pytest.raises(StrategyError, match=r"gap: .* is not a share between 0 and 1"):
        PassOrder(launches=(NORM,), gap=gap)
