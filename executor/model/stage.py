"""A virtual stage: runs its parts forward and backward, dgrad and wgrad together or apart, without autograd."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from torch import Tensor

from meshwright.costmodel.order.launch_order import PassKind
from meshwright.costmodel.program.operators import Operator, Resource
from meshwright.executor.layer.bindings.cross_entropy import TARGETS, Targets, summed_loss
from meshwright.executor.layer.bindings.embedding import TOKENS
from meshwright.executor.layer.bindings.router import REPORT, ROUTING, RoutingReport
from meshwright.executor.layer.host_copies import HostCopies
from meshwright.executor.layer.lifetime import INPUT
from meshwright.executor.layer.offloaded import OffloadedTensors
from meshwright.executor.layer.run import MicroBatch
from meshwright.executor.model.micro_batch_tokens import MicroBatchTokens
from meshwright.executor.model.part import Part

Routed = Callable[[str, RoutingReport], None]
"""Told of the routing of a micro-batch: the layer's title, and what its router did."""


class Watch(Protocol):
    """Told of every pass of a part (its title), and called around every operator of it, to time it."""

    def enter(self, title: str, kind: PassKind, micro_batch: int, beside: Mapping[str, Resource] | None = None) -> None:
        """A pass begins; `beside` has the streams of its operators that are not on the compute stream, by name."""

    def around(self, operator: Operator, run: Callable[[], None]) -> None:
        """Run an operator; its stream is current."""


Passing = Callable[[PassKind, str, str | None], AbstractContextManager[None]]
"""A pass of a part, by its title, runs inside; the title behind it is that of the part that this pass runs next."""


def stateless(_kind: PassKind, _part: str, _following: str | None) -> AbstractContextManager[None]:
    """For parts whose weights and gradients are simply there."""
    return nullcontext()


class Stage:
    """The parts of one virtual stage in model order.

    `token_weight` is the share of one token in the step's loss, and so the gradient of its loss: gradients of all ranks
    and micro-batches then simply add up. `passing` brings weights and takes gradients. `host_copies`: those of the
    rank, None where it has no other stage.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        *,
        is_first: bool,
        is_last: bool,
        token_weight: float,
        routed: Routed,
        passing: Passing = stateless,
        watch: Watch | None = None,
        host_copies: HostCopies | None = None,
    ) -> None:
        self.parts = tuple(parts)
        self.is_first = is_first
        self.is_last = is_last
        self._token_weight = token_weight
        self._routed = routed
        self._passing = passing
        self._watch = watch
        self._host_copies = HostCopies() if host_copies is None else host_copies
        self._running: dict[int, list[MicroBatch]] = {}

    def forward(self, number: int, hidden_TH: Tensor | None, tokens: MicroBatchTokens | None) -> Tensor:
        """Run micro-batch `number`; returns the hidden state, the last stage the loss summed over its tokens.

        The first stage takes no hidden state; the stages at the ends take the tokens.
        """
        running = []
        for part, following in _with_following(self.parts):
            batch = part.runner.start(hidden_TH, self._host_copies)
            if tokens is not None:
                self._ride(batch, tokens)
            with self._passing(PassKind.FORWARD, part.title, following):
                self._run(batch, part, PassKind.FORWARD, number)
            self._host_copies.end_forward(batch.offloaded)
            if part.routes:
                self._routed(part.title, batch.scope.values.rider(ROUTING, REPORT, RoutingReport))
            is_head = self.is_last and part is self.parts[-1]
            hidden_TH = batch.output if is_head else batch.take_output()
            running.append(batch)
        self._running[number] = running
        assert hidden_TH is not None  # a stage has parts
        return summed_loss(hidden_TH) if self.is_last else hidden_TH

    def _run(self, batch: MicroBatch, part: Part, kind: PassKind, number: int) -> None:
        if self._watch is None:
            batch.run(part.passes[kind])
            return
        self._watch.enter(part.title, kind, number, part.beside[kind])
        batch.run(part.passes[kind], self._watch.around)

    def _ride(self, batch: MicroBatch, tokens: MicroBatchTokens) -> None:
        batch.scope.values.ride(INPUT, TOKENS, tokens.inputs_T)
        batch.scope.values.ride(INPUT, TARGETS, Targets(labels_T=tokens.labels_T, scale=self._token_weight))

    def backward(self, number: int, grad_TH: Tensor | None, following: OffloadedTensors | None = None) -> Tensor | None:
        """Gradients of the input and of all weights; the last stage starts from its loss, the first returns none.

        `following`: what the rank's next backward needs of host memory, if that begins behind this one.
        """
        grad_TH = self._backward(number, grad_TH, PassKind.BACKWARD, following)
        del self._running[number]
        return grad_TH

    def backward_input(
        self, number: int, grad_TH: Tensor | None, following: OffloadedTensors | None = None
    ) -> Tensor | None:
        """The gradient of the input alone."""
        return self._backward(number, grad_TH, PassKind.DGRAD, following)

    def backward_weight(self, number: int) -> None:
        """The gradients of the weights, after `backward_input`."""
        for part, following, batch in self._reversed(number):
            with self._passing(PassKind.WGRAD, part.title, following):
                self._run(batch, part, PassKind.WGRAD, number)
        del self._running[number]

    def _backward(
        self, number: int, grad_TH: Tensor | None, kind: PassKind, behind: OffloadedTensors | None
    ) -> Tensor | None:
        for part, following, batch in self._reversed(number):
            if grad_TH is not None:
                batch.put_output_gradient(grad_TH)
            self._host_copies.begin_backward(batch.offloaded, self.offloaded(number, part) or behind)
            with self._passing(kind, part.title, following):
                self._run(batch, part, kind, number)
            grad_TH = None if self.is_first and part is self.parts[0] else batch.take_input_gradient()
        return grad_TH

    def offloaded(self, number: int, before: Part | None = None) -> OffloadedTensors | None:
        """What the backward of a micro-batch needs first of host memory, or next behind that of part `before`."""
        running = self._running[number][: None if before is None else self.parts.index(before)]
        return next((batch.offloaded for batch in reversed(running) if batch.offloaded.names), None)

    def _reversed(self, number: int) -> Iterator[tuple[Part, str | None, MicroBatch]]:
        parts = _with_following(tuple(reversed(self.parts)))
        for (part, following), batch in zip(parts, reversed(self._running[number]), strict=True):
            yield part, following, batch


def _with_following(parts: Sequence[Part]) -> Iterable[tuple[Part, str | None]]:
    return zip(parts, (*(part.title for part in parts[1:]), None), strict=True)
