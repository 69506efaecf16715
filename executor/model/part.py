"""A part of the model on one rank: its operators in the plan's order, ready for any number of micro-batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from meshwright.costmodel.layer_passes import pass_operators
from meshwright.costmodel.order.launch_order import LayerOrder, PassKind
from meshwright.costmodel.program.operators import Resource
from meshwright.costmodel.program.program import LayerProgram
from meshwright.costmodel.strategy import Recompute
from meshwright.executor.layer.bindings.router import ROUTING
from meshwright.executor.layer.context import LayerContext
from meshwright.executor.layer.groups import LayerGroups
from meshwright.executor.layer.host_reads import HostReads
from meshwright.executor.layer.joint_pass import joint_pass
from meshwright.executor.layer.order import on_streams
from meshwright.executor.layer.parameters import Parameters
from meshwright.executor.layer.run import LayerPass, LayerRunner
from meshwright.executor.layer.stream_plan import Placed, plan_streams
from meshwright.executor.layer.streams import Streams


@dataclass(frozen=True, slots=True, kw_only=True)
class PartDescription:
    """What a part runs. `order` None: program order, on one stream. `groups`: communicators of passes that have some
    of their own.
    """

    title: str
    program: LayerProgram
    context: LayerContext
    recompute: Recompute
    order: LayerOrder | None
    groups: Mapping[PassKind, LayerGroups] = field(default_factory=dict)

    def passes(self) -> dict[PassKind, tuple[Placed, ...]]:
        """The operators of each pass, in the plan's order and on its streams where it has one.

        JOINT is among them where the plan has ordered it.
        """
        is_joint = self.order is not None and self.order.joint is not None
        return {kind: self._ordered(kind) for kind in PassKind if kind is not PassKind.JOINT or is_joint}

    @property
    def exchanges_rows(self) -> bool:
        """Whether ranks exchange rows whose number nobody knows beforehand."""
        routes = ROUTING in self.program.sizes()
        return routes and self.context.groups.routed.size > 1 and not self.context.routing.balanced

    def is_like(self, other: PartDescription) -> bool:
        """Whether the two run the same operators in the same orders."""
        own = (self.program, self.recompute, self.order)
        return own == (other.program, other.recompute, other.order)

    def _ordered(self, kind: PassKind) -> tuple[Placed, ...]:
        """A joined backward that the plan has not ordered runs as its two halves, if the plan has ordered those."""
        order = None if self.order is None else self.order.of(kind)
        if kind is PassKind.BACKWARD and order is None:
            return (*self._ordered(PassKind.DGRAD), *self._ordered(PassKind.WGRAD))
        operators = pass_operators(self.program, self.recompute, kind)
        if order is None:
            return tuple(Placed(operator=operator, stream=Resource.COMPUTE) for operator in operators)
        return on_streams(operators, order)


class Part:
    """A part with its weights. `routes`: its tokens choose experts. `streams` None: it runs on one stream.

    `other_streams`: for each pass those of the operators that are not on the compute stream, by name. `joint`: its
    forward, or its backward, beside that of a part like it.
    """

    def __init__(
        self,
        description: PartDescription,
        parameters: Parameters,
        streams: Streams | None = None,
        host: HostReads | None = None,
    ) -> None:
        self.description = description
        self.title = description.title
        self.runner = LayerRunner(description.program, description.context, parameters, description.recompute, host)
        self.routes = ROUTING in description.program.sizes()
        passes = description.passes()
        overlaps = any(one.stream is not Resource.COMPUTE for placed in passes.values() for one in placed)
        self.passes = {
            kind: LayerPass(
                on_streams=plan_streams(placed),
                streams=streams if overlaps else None,
                groups=description.groups.get(kind),
            )
            for kind, placed in passes.items()
        }
        self.other_streams = {kind: one.other_streams() for kind, one in self.passes.items()}
        joint = self.passes.get(PassKind.JOINT)
        self.joint = None if joint is None else joint_pass(joint, description.program.forward)
