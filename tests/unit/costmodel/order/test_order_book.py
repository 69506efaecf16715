from __future__ import annotations

from meshwright.costmodel.model import AttentionSpec, DenseFfnSpec, LayerSpec
from meshwright.costmodel.order.launch_order import Launch, LayerOrder, PassOrder
from meshwright.costmodel.order.order_book import ModelEnd, OrderBook, OrderEntry
from meshwright.costmodel.program.operators import Resource
from meshwright.costmodel.strategy import LayerStrategy, Recompute

ATTENTION = AttentionSpec(num_heads=8, num_kv_heads=4, head_dim=64, value_head_dim=64)
SMALL, LARGE = (LayerSpec(attention=ATTENTION, ffn=DenseFfnSpec(intermediate=size)) for size in (1024, 2048))


def _order(name: str) -> LayerOrder:
    return LayerOrder(forward=PassOrder(launches=(Launch(operators=(name,), stream=Resource.COMPUTE),)))


def test_an_order_is_found_by_part_and_strategy() -> None:
    again = LayerStrategy(recompute=Recompute.FULL)
    book = OrderBook(
        entries=(
            OrderEntry(part=SMALL, strategy=LayerStrategy(), order=_order("small")),
            OrderEntry(part=SMALL, strategy=again, order=_order("again")),
            OrderEntry(part=ModelEnd.HEAD, strategy=LayerStrategy(), order=_order("head")),
        )
    )
    assert book.find(SMALL, LayerStrategy()) == _order("small")
    assert book.find(SMALL, again) == _order("again")
    assert book.find(ModelEnd.HEAD, LayerStrategy()) == _order("head")
    assert book.find(LARGE, LayerStrategy()) is None
    assert book.find(ModelEnd.EMBEDDING, LayerStrategy()) is None
    assert OrderBook().find(SMALL, LayerStrategy()) is None
