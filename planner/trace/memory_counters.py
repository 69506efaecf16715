"""What a stage's GPUs hold over time: model state, the layer in passing, and activations of micro-batches in flight."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from meshwright.costmodel.simulate import Held
from meshwright.costmodel.simulate.actions import ActionKind
from meshwright.costmodel.step import StageMemory, activation_bytes
from meshwright.costmodel.value import Value
from meshwright.planner.simulated_step import SimulatedStep


class MemoryLevel(Value, frozen=True, kw_only=True):
    """What is held from `start_s` on, until the next level."""

    start_s: float
    memory: StageMemory


def memory_levels(step: SimulatedStep, device: int) -> Iterator[MemoryLevel]:
    """A level for each change: a forward's activations from its start, freed at the end of the last backward.

    `transient` is held throughout, as the predicted peak has it.
    """
    chunks = [step.costs[stage] for stage in step.schedule.placement[device]]
    total, late = [0] * len(chunks), [0] * len(chunks)
    peak = step.memory[device]

    def level(start_s: float) -> MemoryLevel:
        activations = activation_bytes(Held(total=tuple(total), late=tuple(late)), chunks)
        return MemoryLevel(start_s=start_s, memory=msgspec.structs.replace(peak, activations=activations))

    yield level(0.0)
    for slot, start_s, end_s in step.slots(device):
        starts = [action for action in slot if action.kind in (ActionKind.FORWARD, ActionKind.BACKWARD_INPUT)]
        ends = [action for action in slot if action.kind.frees_activations]
        for action in starts:
            (total if action.kind is ActionKind.FORWARD else late)[action.chunk] += 1
        if starts:
            yield level(start_s)
        for action in ends:
            total[action.chunk] -= 1
            late[action.chunk] -= action.kind is ActionKind.BACKWARD_WEIGHT
        if ends:
            yield level(end_s)
