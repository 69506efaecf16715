"""The orders of a configuration: which part of the model runs its operators in which order."""

from __future__ import annotations

from enum import StrEnum

from meshwright.costmodel.model import LayerSpec
from meshwright.costmodel.order.launch_order import LayerOrder
from meshwright.costmodel.strategy import LayerStrategy
from meshwright.costmodel.value import Value


class ModelEnd(StrEnum):
    """The parts before the first layer and behind the last."""

    EMBEDDING = "embedding"
    HEAD = "head"


class OrderEntry(Value, frozen=True, kw_only=True):
    """The order of one part under one strategy."""

    part: LayerSpec | ModelEnd
    strategy: LayerStrategy
    order: LayerOrder


class OrderBook(Value, frozen=True, kw_only=True):
    """Orders that are fixed. A part that has none runs in the order that list scheduling finds."""

    entries: tuple[OrderEntry, ...] = ()

    def find(self, part: LayerSpec | ModelEnd, strategy: LayerStrategy) -> LayerOrder | None:
        """The order of a part under a strategy, if it is fixed."""
        for entry in self.entries:
            if entry.strategy == strategy and entry.part == part:
                return entry.order
        return None
