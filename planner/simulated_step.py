"""One step of a configuration with everything that pictures of it need: schedule, costs, times of all events."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.simulate import Schedule, Span, SpanKind, StepTimeline, simulate
from meshwright.costmodel.simulate.actions import Slot
from meshwright.costmodel.stage_cost import StageCost
from meshwright.costmodel.step import StageMemory, schedule_of, stage_memory, step_inputs, step_overlap

ACTION_KINDS = frozenset({SpanKind.FORWARD, SpanKind.BACKWARD, SpanKind.BACKWARD_INPUT, SpanKind.BACKWARD_WEIGHT})


class TimedSlot(NamedTuple):
    """A slot of the schedule and when it ran."""

    slot: Slot
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SimulatedStep:
    """A step that has run. `costs` are those of the virtual stages, `memory` the peak of each device.

    `spans[d]` is everything that device d does: slots, communication, optimizer.
    """

    configuration: TrainingConfiguration
    schedule: Schedule
    costs: tuple[StageCost, ...]
    timeline: StepTimeline
    memory: tuple[StageMemory, ...]
    spans: tuple[tuple[Span, ...], ...]

    def slots(self, device: int) -> Iterator[TimedSlot]:
        """The slots of a device in order; the actions of a slot share its times."""
        actions = (span for span in self.spans[device] if span.kind in ACTION_KINDS)
        for slot in self.schedule.order[device]:
            *_, last = (next(actions) for _ in slot)
            yield TimedSlot(slot, last.start_s, last.end_s)

    def layers_of(self, device: int) -> tuple[int, ...]:
        """Numbers of the layers that a device holds, ascending."""
        starts, first = [], 0
        for stage in self.configuration.stages:
            starts.append(first)
            first += len(stage)
        stages = self.configuration.stages
        placed = (range(starts[stage], starts[stage] + len(stages[stage])) for stage in self.schedule.placement[device])
        return tuple(sorted(layer for layers in placed for layer in layers))


def simulated_step(configuration: TrainingConfiguration) -> SimulatedStep:
    """Simulate one step, as `costmodel.step.predict` does."""
    schedule = schedule_of(configuration)
    costs, durations = step_inputs(configuration, schedule)
    timeline = simulate(schedule, durations, step_overlap(configuration))
    by_device: list[list[Span]] = [[] for _ in range(schedule.num_stages)]
    for span in timeline.spans():
        by_device[span.device].append(span)
    return SimulatedStep(
        configuration=configuration,
        schedule=schedule,
        costs=costs,
        timeline=timeline,
        memory=stage_memory(schedule, costs),
        spans=tuple(map(tuple, by_device)),
    )
