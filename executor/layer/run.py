"""Runs the operators of a layer program, in any order that respects what they read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from meshwright.costmodel.layer_passes import pass_operators
from meshwright.costmodel.offload import OFFLOADED
from meshwright.costmodel.order.launch_order import PassKind
from meshwright.costmodel.program.operators import GRADIENT, CopyWork, Operator, Resource
from meshwright.costmodel.program.program import LayerProgram
from meshwright.costmodel.program.recompute import plan_backward
from meshwright.costmodel.strategy import Recompute
from meshwright.executor.layer.bindings.registry import binding_of
from meshwright.executor.layer.context import LayerContext
from meshwright.executor.layer.groups import LayerGroups
from meshwright.executor.layer.host_copies import HostCopies
from meshwright.executor.layer.host_reads import HostReads
from meshwright.executor.layer.lifetime import INPUT, Lifetimes
from meshwright.executor.layer.offloaded import OffloadedTensors
from meshwright.executor.layer.parameters import Parameters
from meshwright.executor.layer.position import make_rotary_tables
from meshwright.executor.layer.scope import Binding, Scope
from meshwright.executor.layer.stream_plan import StreamPass
from meshwright.executor.layer.streams import Around, Streams
from meshwright.executor.layer.values import Values

__all__ = ["Around", "LayerPass", "LayerRunner", "MicroBatch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPass:
    """The operators of a pass as they are planned. `streams` None: one after another.

    `groups`: the communicators of the pass, where it has some of its own.
    """

    on_streams: StreamPass
    streams: Streams | None = None
    groups: LayerGroups | None = None

    @property
    def operators(self) -> tuple[Operator, ...]:
        """In their order."""
        return tuple(step.operator for step in self.on_streams.steps)

    def __iter__(self) -> Iterator[Operator]:
        return iter(self.operators)

    def other_streams(self) -> dict[str, Resource]:
        """The streams of the operators that do not run on the compute stream, by name."""
        if self.streams is None:
            return {}
        return {one.operator.name: one.stream for one in self.on_streams.steps if one.stream is not Resource.COMPUTE}


class LayerRunner:
    """A layer on one rank, ready to run any number of micro-batches.

    `forward` and `backward` are the operators of its passes, those that recomputation runs again included. `host`: what
    reads numbers from the device, None for one of its own.
    """

    def __init__(
        self,
        program: LayerProgram,
        layer: LayerContext,
        parameters: Parameters,
        recompute: Recompute = Recompute.NONE,
        host: HostReads | None = None,
    ) -> None:
        self.program = program
        self.layer = layer
        self.parameters = parameters
        self.recompute = recompute
        self.host = HostReads() if host is None else host
        self.forward = pass_operators(program, recompute, PassKind.FORWARD)
        self.backward = pass_operators(program, recompute, PassKind.BACKWARD)
        self._offloaded = offloaded_names(program, recompute)
        self._rotary = make_rotary_tables(layer)
        self._bindings = {op.name: binding_of(op, layer) for op in (*program.forward, *program.backward)}

    def start(self, hidden_TH: Tensor | None = None, host_copies: HostCopies | None = None) -> MicroBatch:
        """A new micro-batch with its input, which the embedding has none of.

        `host_copies` None: there is no other layer whose tensors the layer's copies could move.
        """
        values = Values()
        if hidden_TH is not None:
            values.put(INPUT, hidden_TH)
        scope = Scope(
            layer=self.layer,
            values=values,
            parameters=self.parameters,
            rotary=self._rotary,
            host=self.host,
            host_copies=HostCopies() if host_copies is None else host_copies,
        )
        offloaded = OffloadedTensors(values, self._offloaded, scope.host_copies.buffers)
        lifetimes = Lifetimes(self.program, self.recompute)
        return MicroBatch(self._bindings, lifetimes, scope, self.program.output, offloaded)


def offloaded_names(program: LayerProgram, recompute: Recompute) -> tuple[str, ...]:
    """The tensors that wait in host memory, of a program that has copies."""
    if not any(isinstance(operator.work, CopyWork) for operator in program.forward):
        return ()
    kept = plan_backward(program, recompute).kept
    return tuple(name for name in OFFLOADED if name in kept)


class MicroBatch:
    """One micro-batch on its way through a layer. Tensors are forgotten when nobody needs them any more.

    `offloaded`: those that wait in host memory between the passes; who runs the passes says when (`host_copies.py`).
    """

    def __init__(
        self,
        bindings: Mapping[str, Binding],
        lifetimes: Lifetimes,
        scope: Scope,
        output: str,
        offloaded: OffloadedTensors,
    ) -> None:
        self.scope = scope
        self.offloaded = offloaded
        self._bindings = bindings
        self._lifetimes = lifetimes
        self._output = output

    def run(self, operators: Iterable[Operator], around: Around | None = None) -> None:
        """Run operators one after another, a pass as it is planned. No autograd: all operators are alike.

        `around` is not told of copies to and from the host that have nothing to move.
        """
        if isinstance(operators, LayerPass):
            self._run_pass(operators, None if around is None else partial(self._unless_idle, around))
            return
        with torch.no_grad():
            for operator in operators:
                if around is None:
                    self.run_one(operator)
                else:
                    around(operator, partial(self.run_one, operator))

    def _run_pass(self, planned: LayerPass, around: Around | None) -> None:
        self.join(planned.groups)
        if planned.streams is None:
            self.run(planned.operators, around)
        else:
            self.run_on(planned.streams, planned.on_streams, around)

    def join(self, groups: LayerGroups | None) -> None:
        """Talk in these groups from now on; None: in those of before."""
        if groups is not None and groups != self.scope.layer.groups:
            self.scope = replace(self.scope, layer=replace(self.scope.layer, groups=groups))

    def run_on(self, streams: Streams, planned: StreamPass, around: Around | None = None) -> None:
        """Issue a pass to streams. What it leaves in the end is there for the compute stream."""
        with torch.no_grad():
            streams.run(planned, lambda _: self.scope.values, self.run_one, around)
        self.hand_over(streams)

    def hand_over(self, streams: Streams) -> None:
        """A pass has been issued to streams: what leaves the layer now is for the compute stream."""
        for name in {self._output, GRADIENT + INPUT} & self.scope.values.names():
            streams.hand_over(self.scope.values, name)

    def _unless_idle(self, around: Around, operator: Operator, run: Callable[[], None]) -> None:
        if isinstance(operator.work, CopyWork) and not self.scope.host_copies.moves(operator.phase):
            run()
        else:
            around(operator, run)

    def run_one(self, operator: Operator) -> None:
        """Run an operator, without autograd, and forget what nobody needs any more."""
        written = self._bindings[operator.name](operator, self.scope)
        if set(written) != set(operator.writes):
            raise RuntimeError(f"{operator.name} wrote {sorted(written)}; the program says {sorted(operator.writes)}")
        for name, tensor in written.items():
            self.scope.values.put(name, tensor)
        self.scope.values.drop(self._lifetimes.end_of(operator))

    @property
    def output(self) -> Tensor:
        """The layer's output, (T, H)."""
        return self.scope.values[self._output]

    def take_output(self) -> Tensor:
        """The layer's output, which the micro-batch forgets: the next layer keeps it, if anybody does."""
        output = self.output
        self.scope.values.drop((self._output,))
        return output

    @property
    def input_gradient(self) -> Tensor:
        """The gradient of the layer's input, (T, H)."""
        return self.scope.values[GRADIENT + INPUT]

    def take_input_gradient(self) -> Tensor:
        """The gradient of the layer's input, which the micro-batch forgets."""
        gradient = self.input_gradient
        self.scope.values.drop((GRADIENT + INPUT,))
        return gradient

    def put_output_gradient(self, grad_TH: Tensor) -> None:
        """What the backward starts from."""
        self.scope.values.put(GRADIENT + self._output, grad_TH)
