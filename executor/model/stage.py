"""A virtual stage: runs its parts forward and backward, dgrad and wgrad together or apart, without autograd."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from meshwright.costmodel.order.launch_order import PassKind
from meshwright.executor.layer.host_copies import HostCopies
from meshwright.executor.layer.offloaded import OffloadedTensors
from meshwright.executor.layer.run import MicroBatch
from meshwright.executor.model.micro_batch_tokens import MicroBatchTokens
from meshwright.executor.model.part import Part
from meshwright.executor.model.stage_passes import (
    BackwardPass,
    ForwardPass,
    Passing,
    Routed,
    StageSetting,
    Watch,
    first_offloaded,
    stateless,
)


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
        self.setting = StageSetting(
            parts=tuple(parts),
            is_first=is_first,
            is_last=is_last,
            token_weight=token_weight,
            routed=routed,
            passing=passing,
            watch=watch,
            host_copies=HostCopies() if host_copies is None else host_copies,
        )
        self._running: dict[int, list[MicroBatch]] = {}

    def forward(self, number: int, hidden_TH: Tensor | None, tokens: MicroBatchTokens | None) -> Tensor:
        """Run micro-batch `number`; returns the hidden state, the last stage the loss summed over its tokens.

        The first stage takes no hidden state; the stages at the ends take the tokens.
        """
        one = self.forward_pass(number, hidden_TH, tokens)
        one.run()
        return one.result

    def forward_pass(self, number: int, hidden_TH: Tensor | None, tokens: MicroBatchTokens | None) -> ForwardPass:
        """The same, yet to be run."""
        one = ForwardPass(self.setting, number, hidden_TH, tokens)
        self._running[number] = one.batches
        return one

    def backward(self, number: int, grad_TH: Tensor | None, following: OffloadedTensors | None = None) -> Tensor | None:
        """Gradients of the input and of all weights; the last stage starts from its loss, the first returns none.

        `following`: what the rank's next backward needs of host memory, if that begins behind this one.
        """
        one = self.backward_pass(number, grad_TH, following)
        one.run()
        return one.grad_TH

    def backward_pass(
        self, number: int, grad_TH: Tensor | None, following: OffloadedTensors | None = None
    ) -> BackwardPass:
        """The same, yet to be run."""
        batches = self._running.pop(number)
        return BackwardPass(self.setting, number, PassKind.BACKWARD, batches, grad_TH, following)

    def backward_input(
        self, number: int, grad_TH: Tensor | None, following: OffloadedTensors | None = None
    ) -> Tensor | None:
        """The gradient of the input alone."""
        one = BackwardPass(self.setting, number, PassKind.DGRAD, self._running[number], grad_TH, following)
        one.run()
        return one.grad_TH

    def backward_weight(self, number: int) -> None:
        """The gradients of the weights, after `backward_input`."""
        BackwardPass(self.setting, number, PassKind.WGRAD, self._running.pop(number)).run()

    def offloaded(self, number: int) -> OffloadedTensors | None:
        """What the backward of a micro-batch needs first of host memory."""
        return first_offloaded(self._running[number])
