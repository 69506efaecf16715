"""Runs one step of a device: instruction by instruction, any schedule."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from meshwright.costmodel.simulate import Schedule
from meshwright.costmodel.simulate.actions import Action, ActionKind
from meshwright.executor.layer.offloaded import OffloadedTensors
from meshwright.executor.model.micro_batch_tokens import MicroBatchTokens
from meshwright.executor.model.stage import Stage
from meshwright.executor.model.turns import run_beside, turns
from meshwright.executor.observe.observer import WAITS_WORD, StepObserver
from meshwright.executor.pipeline.instructions import (
    Compute,
    Passage,
    Receive,
    Send,
    SlotTimes,
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
    """A device of the pipeline: `stages[chunk]` are its virtual stages, `times_s` when slots are planned.

    `runs_beside`: a forward and a backward of one slot share passes; else one runs behind the other.
    """

    def __init__(
        self,
        schedule: Schedule,
        times_s: SlotTimes,
        device: int,
        stages: Sequence[Stage],
        make_mailbox: Callable[[], Mailbox],
        watch: StepObserver,
        *,
        runs_beside: bool = True,
    ) -> None:
        self._num_stages = schedule.num_virtual_stages
        self._placed = schedule.placement[device]
        self._stages = stages
        self._instructions = device_instructions(schedule, times_s)[device]
        actions = [action for one in self._instructions if isinstance(one, Compute) for action in one.slot]
        self._backwards_behind = backwards_behind(actions)
        self._make_mailbox = make_mailbox
        self._watch = watch
        self._turns = {
            (slot[0].chunk, slot[1].chunk): turns(
                stages[slot[0].chunk].setting.parts, tuple(reversed(stages[slot[1].chunk].setting.parts))
            )
            for slot in dict.fromkeys(schedule.order[device])
            if runs_beside and len(slot) > 1
        }

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
                case Compute(slot=(forward, backward)) if self._turns:
                    losses += self._compute_beside(forward, backward, mailbox, tokens_of)
                case Compute(slot=slot):
                    losses += [loss for action in slot for loss in self._compute(action, mailbox, tokens_of)]
        mailbox.finish()
        return sum(losses[1:], losses[0]) if losses else None

    def _compute(self, action: Action, mailbox: Mailbox, tokens_of: TokensOf) -> list[Tensor]:
        """Run an action; returns the loss of a forward of the last stage."""
        stage, given = self._stages[action.chunk], self._given(action, mailbox)
        part = StepPart.FORWARD if action.kind is ActionKind.FORWARD else StepPart.BACKWARD
        with self._watch.part(part, _words(action)):
            yielded = _run(action, stage, given, tokens_of, self._following(action))
        return self._put(action, yielded, mailbox)

    def _compute_beside(self, forward: Action, backward: Action, mailbox: Mailbox, tokens_of: TokensOf) -> list[Tensor]:
        """Run a forward beside the backward of another chunk."""
        stage, number = self._stages[forward.chunk], forward.micro_batch
        hidden, gradient = self._given(forward, mailbox), self._given(backward, mailbox)
        one = stage.forward_pass(number, hidden, _tokens(stage, number, tokens_of))
        other = self._stages[backward.chunk].backward_pass(backward.micro_batch, gradient, self._following(backward))
        with self._watch.joint_part(_words(forward), _words(backward)):
            run_beside(one, other, self._turns[forward.chunk, backward.chunk])
            result = one.result
        self._put(backward, other.grad_TH, mailbox)
        return self._put(forward, result, mailbox)

    def _given(self, action: Action, mailbox: Mailbox) -> Tensor | None:
        needed = incoming(action, self._placed[action.chunk], self._num_stages)
        return None if needed is None else self._taken(needed, mailbox)

    def _put(self, action: Action, yielded: Tensor | None, mailbox: Mailbox) -> list[Tensor]:
        """Leave what an action has yielded to its neighbour; returns it if it is a loss."""
        passage = outgoing(action, self._placed[action.chunk], self._num_stages)
        if passage is not None and yielded is not None:
            mailbox.put(passage, yielded)
        is_loss = action.kind is ActionKind.FORWARD and self._stages[action.chunk].setting.is_last
        return [yielded] if is_loss and yielded is not None else []

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
            return stage.forward(action.micro_batch, given, _tokens(stage, action.micro_batch, tokens_of))
        case ActionKind.BACKWARD:
            return stage.backward(action.micro_batch, given, following)
        case ActionKind.BACKWARD_INPUT:
            return stage.backward_input(action.micro_batch, given, following)
        case ActionKind.BACKWARD_WEIGHT:
            stage.backward_weight(action.micro_batch)
            return None


def _tokens(stage: Stage, micro_batch: int, tokens_of: TokensOf) -> MicroBatchTokens | None:
    """The tokens, for the stages at the ends."""
    return tokens_of(micro_batch) if stage.setting.is_first or stage.setting.is_last else None


def _words(action: Action) -> str:
    return f"{ACTION_WORDS[action.kind]} {action.micro_batch}"
