"""A forward of one micro-batch beside the backward of another, in layers of one kind: one pass over both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import torch

from meshwright.costmodel.program.operators import BESIDE, Operator, Resource
from meshwright.executor.layer.run import Around, LayerPass, MicroBatch
from meshwright.executor.layer.values import Values


@dataclass(frozen=True, slots=True, kw_only=True)
class JointPass:
    """The operators of both passes as they are planned: those of the forward have the prefix `BESIDE`.

    `forward`: these by their names here, as the layer's program has them. `forward_streams`, `backward_streams`: of the
    operators of either pass that are not on the compute stream, by their own names.
    """

    planned: LayerPass
    forward: Mapping[str, Operator]
    forward_streams: Mapping[str, Resource]
    backward_streams: Mapping[str, Resource]

    def run(self, forward: MicroBatch, backward: MicroBatch, around: Around | None = None) -> None:
        """Run both; `around` is called with the operators of this pass."""
        for batch in (forward, backward):
            batch.join(self.planned.groups)

        def run_one(operator: Operator) -> None:
            own = self.forward.get(operator.name)
            if own is None:
                backward.run_one(operator)
            else:
                forward.run_one(own)

        def values_of(operator: Operator) -> Values:
            return (forward if operator.name in self.forward else backward).scope.values

        streams = self.planned.streams
        with torch.no_grad():
            if streams is not None:
                streams.run(self.planned.on_streams, values_of, run_one, around)
                forward.hand_over(streams)
                backward.hand_over(streams)
                return
            for operator in self.planned:
                if around is None:
                    run_one(operator)
                else:
                    around(operator, partial(run_one, operator))

    def own(self, operator: Operator) -> Operator:
        """An operator of this pass as its layer's program has it."""
        return self.forward.get(operator.name, operator)


def joint_pass(planned: LayerPass, forward: Iterable[Operator]) -> JointPass:
    """The pass of these launches, of a layer with these forward operators."""
    own, streams = {BESIDE + operator.name: operator for operator in forward}, planned.other_streams()
    return JointPass(
        planned=planned,
        forward=own,
        forward_streams={own[name].name: stream for name, stream in streams.items() if name in own},
        backward_streams={name: stream for name, stream in streams.items() if name not in own},
    )
