"""What a stage's GPUs hold over time: model state, the layer in passing, and activations of micro-batches in flight."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from meshwright.costmodel.simulate.actions import ActionKind
from meshwright.costmodel.step import StageMemory
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
    kept = [step.costs[stage].kept_bytes for stage in step.schedule.placement[device]]
    held = [0] * len(kept)
    peak = step.memory[device]

    def level(start_s: float) -> MemoryLevel:
        activations = sum(count * size for count, size in zip(held, kept, strict=True))
        return MemoryLevel(start_s=start_s, memory=msgspec.structs.replace(peak, activations=activations))

    yield level(0.0)
    for slot, start_s, end_s in step.slots(device):
        forwards = [action.chunk for action in slot if action.kind is ActionKind.FORWARD]
        freed = [action.chunk for action in slot if action.kind.frees_activations]
        for chunk in forwards:
            held[chunk] += 1
        if forwards:
            yield level(start_s)
        for chunk in freed:
            held[chunk] -= 1
        if freed:
            yield level(end_s)
