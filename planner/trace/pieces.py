"""The pieces of a virtual stage in the order in which a forward runs them: embedding, layers, head."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.layer_cost import LayerCost
from meshwright.costmodel.model import LayerSpec
from meshwright.costmodel.order.order_book import ModelEnd
from meshwright.costmodel.order.timeline import LayerTimelines
from meshwright.costmodel.stage_cost import CostContext, cost_context, ends_of
from meshwright.costmodel.strategy import LayerStrategy


@dataclass(frozen=True, kw_only=True, eq=False)
class Piece:
    """A layer or an end of the model on the stage that runs it."""

    name: str
    context: CostContext
    part: LayerSpec | ModelEnd
    strategy: LayerStrategy

    @cached_property
    def cost(self) -> LayerCost:
        """Seconds of its passes."""
        if self.part is ModelEnd.EMBEDDING:
            return self.context.embedding(self.strategy).compute
        if self.part is ModelEnd.HEAD:
            return self.context.head(self.strategy).compute
        assert isinstance(self.part, LayerSpec)  # the ends are done
        return self.context.layer(self.part, self.strategy).compute

    @cached_property
    def timelines(self) -> LayerTimelines:
        """What runs when in its passes."""
        return self.context.timelines(self.part, self.strategy)

    def is_like(self, other: Piece) -> bool:
        """Whether both run the same operators."""
        return self.part == other.part and self.strategy == other.strategy


def stage_pieces(configuration: TrainingConfiguration) -> tuple[tuple[Piece, ...], ...]:
    """The pieces of every virtual stage."""
    context, ends = cost_context(configuration), ends_of(configuration)
    layers = iter(enumerate(configuration.model.layers))
    stages = [
        [
            Piece(name=f"layer {number}", context=context, part=layer, strategy=strategy)
            for strategy, (number, layer) in zip(strategies, layers, strict=False)
        ]
        for strategies in configuration.stages
    ]
    stages[0].insert(0, Piece(name="embedding", context=context, part=ModelEnd.EMBEDDING, strategy=ends))
    stages[-1].append(Piece(name="head", context=context, part=ModelEnd.HEAD, strategy=ends))
    return tuple(map(tuple, stages))
