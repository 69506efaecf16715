"""Passes of a virtual stage, part by part, so that two of them can go side by side."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
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

    def enter(
        self,
        title: str,
        kind: PassKind,
        micro_batch: int,
        streams: Mapping[str, Resource] | None = None,
        *,
        beside: bool = False,
    ) -> None:
        """The operators that follow are of this pass.

        `streams`: of its operators that are not on the compute stream, by name. `beside`: it is a forward that runs
        beside the backward of another micro-batch.
        """

    def around(self, operator: Operator, run: Callable[[], None]) -> None:
        """Run an operator; its stream is current."""


Passing = Callable[[PassKind, str, str | None], AbstractContextManager[None]]
"""A pass of a part, by its title, runs inside; the title behind it is that of the part that this pass runs next."""


def stateless(_kind: PassKind, _part: str, _following: str | None) -> AbstractContextManager[None]:
    """For parts whose weights and gradients are simply there."""
    return nullcontext()


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSetting:
    """A stage's parts in model order, and what stands around them (`Stage`)."""

    parts: tuple[Part, ...]
    is_first: bool
    is_last: bool
    token_weight: float
    routed: Routed
    passing: Passing = stateless
    watch: Watch | None = None
    host_copies: HostCopies = field(default_factory=HostCopies)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartPass:
    """A pass of a part with one micro-batch, ready to run."""

    part: Part
    kind: PassKind
    batch: MicroBatch
    micro_batch: int

    def run(self, watch: Watch | None, *, beside: bool = False) -> None:
        """Run its operators. `beside`: between those of a backward of another micro-batch."""
        planned = self.part.passes[self.kind]
        if watch is None:
            self.batch.run(planned)
            return
        watch.enter(self.part.title, self.kind, self.micro_batch, self.part.other_streams[self.kind], beside=beside)
        self.batch.run(planned, watch.around)


class StagePass(ABC):
    """A pass of a stage with one micro-batch. `parts` are in the order of the pass."""

    def __init__(self, setting: StageSetting, micro_batch: int, parts: Sequence[Part]) -> None:
        self.setting = setting
        self.micro_batch = micro_batch
        self.parts = tuple(parts)
        self._left = iter(_with_following(self.parts))

    @abstractmethod
    def next_part(self) -> AbstractContextManager[PartPass]:
        """The next part: to be run inside."""

    def run(self) -> None:
        """All parts, one after another."""
        for _ in self.parts:
            with self.next_part() as one:
                one.run(self.setting.watch)


class ForwardPass(StagePass):
    """A forward. `hidden_TH` is its input (None: of the first stage), and in the end its output; `batches` grow."""

    def __init__(
        self, setting: StageSetting, micro_batch: int, hidden_TH: Tensor | None, tokens: MicroBatchTokens | None
    ) -> None:
        super().__init__(setting, micro_batch, setting.parts)
        self._hidden_TH = hidden_TH
        self._tokens = tokens
        self.batches: list[MicroBatch] = []

    @contextmanager
    def next_part(self) -> Iterator[PartPass]:
        """Starts the part's micro-batch, and takes its output."""
        setting, (part, following) = self.setting, next(self._left)
        batch = part.runner.start(self._hidden_TH, setting.host_copies)
        if self._tokens is not None:
            self._ride(batch, self._tokens)
        with setting.passing(PassKind.FORWARD, part.title, following):
            yield PartPass(part=part, kind=PassKind.FORWARD, batch=batch, micro_batch=self.micro_batch)
        setting.host_copies.end_forward(batch.offloaded)
        if part.routes:
            setting.routed(part.title, batch.scope.values.rider(ROUTING, REPORT, RoutingReport))
        is_head = setting.is_last and part is self.parts[-1]
        self._hidden_TH = batch.output if is_head else batch.take_output()
        self.batches.append(batch)

    def _ride(self, batch: MicroBatch, tokens: MicroBatchTokens) -> None:
        batch.scope.values.ride(INPUT, TOKENS, tokens.inputs_T)
        batch.scope.values.ride(INPUT, TARGETS, Targets(labels_T=tokens.labels_T, scale=self.setting.token_weight))

    @property
    def result(self) -> Tensor:
        """The hidden state, of the last stage the loss summed over the tokens."""
        assert self._hidden_TH is not None  # a stage has parts
        return summed_loss(self._hidden_TH) if self.setting.is_last else self._hidden_TH


class BackwardPass(StagePass):
    """A backward, or a half of it. `grad_TH`: the gradient of the output, in the end that of the input.

    `behind`: what the rank's next backward needs of host memory, if that begins behind this one.
    """

    def __init__(
        self,
        setting: StageSetting,
        micro_batch: int,
        kind: PassKind,
        batches: Sequence[MicroBatch],
        grad_TH: Tensor | None = None,
        behind: OffloadedTensors | None = None,
    ) -> None:
        super().__init__(setting, micro_batch, tuple(reversed(setting.parts)))
        self._kind = kind
        self._batches = list(batches)
        self.grad_TH = grad_TH
        self._behind = behind

    @contextmanager
    def next_part(self) -> Iterator[PartPass]:
        """Gives the part the gradient of its output, and takes that of its input."""
        setting, (part, following), batch = self.setting, next(self._left), self._batches.pop()
        one = PartPass(part=part, kind=self._kind, batch=batch, micro_batch=self.micro_batch)
        if self._kind is PassKind.WGRAD:
            with setting.passing(self._kind, part.title, following):
                yield one
            return
        if self.grad_TH is not None:
            batch.put_output_gradient(self.grad_TH)
        setting.host_copies.begin_backward(batch.offloaded, first_offloaded(self._batches) or self._behind)
        with setting.passing(self._kind, part.title, following):
            yield one
        is_input = setting.is_first and part is self.parts[-1]
        self.grad_TH = None if is_input else batch.take_input_gradient()


def first_offloaded(batches: Sequence[MicroBatch]) -> OffloadedTensors | None:
    """What a backward through these needs first of host memory."""
    return next((batch.offloaded for batch in reversed(batches) if batch.offloaded.names), None)


def _with_following(parts: Sequence[Part]) -> Iterable[tuple[Part, str | None]]:
    return zip(parts, (*(part.title for part in parts[1:]), None), strict=True)
