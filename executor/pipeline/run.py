"""Runs one step of a device: instruction by instruction, any schedule."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from meshwright.costmodel.simulate import Schedule
from meshwright.costmodel.simulate.actions import Action, ActionKind
from meshwright.executor.layer.offloaded import OffloadedTensors
from meshwright.executor.model.micro_batch_tokens import MicroBatchTokens
from meshwright.executor.model.stage import Stage
from meshwright.executor.observe.observer import WAITS_WORD, StepObserver
from meshwright.executor.pipeline.instructions import (
    Compute,
    Passage,
    Receive,
    Send,
    backwards_behind,
    device_instructions,
    incoming,
    outgoing,
)
from meshwright.executor.pipeline.mailbox import Mailbox
from meshwright.executor.stopwatch import StepPart
from meshwright.planner.trace.stage_events import ACTION_WORDS

TokensOf = Callable[[int], MicroBatchTokens]


class PipelineDevice:
    """A device of the pipeline: `stages[chunk]` are its virtual stages, `placed` their numbers."""

    def __init__(
        self,
        schedule: Schedule,
        device: int,
        stages: Sequence[Stage],
        make_mailbox: Callable[[], Mailbox],
        watch: StepObserver,
    ) -> None:
        self._num_stages = schedule.num_virtual_stages
        self._placed = schedule.placement[device]
        self._stages = stages
        self._instructions = device_instructions(schedule)[device]
        actions = [one.action for one in self._instructions if isinstance(one, Compute)]
        self._backwards_behind = backwards_behind(actions)
        self._make_mailbox = make_mailbox
        self._watch = watch

    def run(self, tokens_of: TokensOf) -> Tensor | None:
        """Forward and backward of all micro-batches; the loss summed over their tokens, where the last stage is.

        Gradients add up in the stages' parameters.
        """
        mailbox = self._make_mailbox()
        losses: list[Tensor] = []
        for instruction in self._instructions:
            match instruction:
                case Send():
                    mailbox.send(instruction)
                case Receive():
                    mailbox.expect(instruction)
                case Compute():
                    loss = self._compute(instruction.action, mailbox, tokens_of)
                    losses += [] if loss is None else [loss]
        mailbox.finish()
        return sum(losses[1:], losses[0]) if losses else None

    def _compute(self, action: Action, mailbox: Mailbox, tokens_of: TokensOf) -> Tensor | None:
        """Run an action; returns the loss of a forward of the last stage."""
        number, stage = self._placed[action.chunk], self._stages[action.chunk]
        needed = incoming(action, number, self._num_stages)
        given = None if needed is None else self._taken(needed, mailbox)
        part = StepPart.FORWARD if action.kind is ActionKind.FORWARD else StepPart.BACKWARD
        with self._watch.part(part, f"{ACTION_WORDS[action.kind]} {action.micro_batch}"):
            yielded = _run(action, stage, given, tokens_of, self._following(action))
        passage = outgoing(action, number, self._num_stages)
        if passage is not None and yielded is not None:
            mailbox.put(passage, yielded)
        return yielded if stage.is_last and action.kind is ActionKind.FORWARD else None

    def _following(self, action: Action) -> OffloadedTensors | None:
        behind = self._backwards_behind.get(action)
        return None if behind is None else self._stages[behind.chunk].offloaded(behind.micro_batch)

    def _taken(self, passage: Passage, mailbox: Mailbox) -> Tensor:
        if mailbox.has_kept(passage):
            return mailbox.take(passage)
        with self._watch.part(
            StepPart.WAIT, f"{WAITS_WORD}micro-batch {passage.micro_batch} of stage {passage.source}"
        ):
            return mailbox.take(passage)


def _run(
    action: Action, stage: Stage, given: Tensor | None, tokens_of: TokensOf, following: OffloadedTensors | None
) -> Tensor | None:
    match action.kind:
        case ActionKind.FORWARD:
            tokens = tokens_of(action.micro_batch) if stage.is_first or stage.is_last else None
            return stage.forward(action.micro_batch, given, tokens)
        case ActionKind.BACKWARD:
            return stage.backward(action.micro_batch, given, following)
        case ActionKind.BACKWARD_INPUT:
            return stage.backward_input(action.micro_batch, given, following)
        case ActionKind.BACKWARD_WEIGHT:
            stage.backward_weight(action.micro_batch)
            return None
