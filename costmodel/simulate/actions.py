"""The words of a pipeline schedule: actions, and the slots in which a device runs them."""

from __future__ import annotations

from enum import StrEnum
from functools import cache
from typing import TypeAlias

from meshwright.costmodel.value import Value


class ActionKind(StrEnum):
    """What a device does with one micro-batch of one of its chunks; the letters are torch.distributed.pipelining's.

    BACKWARD is the full backward, input and weight gradients in one action. Zero-bubble schedules split it into
    BACKWARD_INPUT (which their paper calls B) and BACKWARD_WEIGHT.
    """

    FORWARD = "F"
    BACKWARD = "B"
    BACKWARD_INPUT = "I"
    BACKWARD_WEIGHT = "W"

    @property
    def sends_gradient(self) -> bool:
        """Whether it yields the gradient that the virtual stage before waits for."""
        return self in (ActionKind.BACKWARD, ActionKind.BACKWARD_INPUT)

    @property
    def frees_activations(self) -> bool:
        """Whether nothing of the micro-batch's forward is needed once it has ended."""
        return self in (ActionKind.BACKWARD, ActionKind.BACKWARD_WEIGHT)


class Action(Value, frozen=True, kw_only=True):
    """One kind of work on one micro-batch of one of the device's chunks."""

    kind: ActionKind
    chunk: int
    micro_batch: int

    def __str__(self) -> str:
        return f"{self.chunk}{self.kind}{self.micro_batch}"


Slot: TypeAlias = tuple[Action, ...]
"""What a device runs at one time: one action, or a forward overlapped with a full backward (in that order)."""


@cache
def single(kind: ActionKind, chunk: int, micro_batch: int) -> Slot:
    """The slot of one action; equal slots are one object, which keeps large schedules small."""
    return (Action(kind=kind, chunk=chunk, micro_batch=micro_batch),)


def overlapped(forward: Slot, backward: Slot) -> Slot:
    """The slot that runs a forward and a backward at the same time (F&B)."""
    return forward + backward
