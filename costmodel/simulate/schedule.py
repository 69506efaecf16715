"""A pipeline schedule as a value: where the virtual stages lie, and what each device runs in which order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from enum import StrEnum
from functools import lru_cache

from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.simulate.actions import Action, ActionKind, Slot
from meshwright.costmodel.value import Value


class ScheduleKind(StrEnum):
    """The families of schedules; each has its module in `costmodel.simulate.schedules`."""

    GPIPE = "gpipe"
    ONE_F_ONE_B = "1f1b"
    INTERLEAVED = "interleaved"
    ZB_H1 = "zb-h1"
    ZB_V = "zb-v"
    DUALPIPE_V = "dualpipe-v"


class Schedule(Value, frozen=True, kw_only=True):
    """`placement[device][chunk]` is a virtual stage; `order[device]` lists the device's slots, first to last.

    Virtual stage s needs the activations of s-1 and the gradients of s+1. A schedule that exists runs every micro-batch
    once through every virtual stage, forward and backward, and cannot deadlock.
    """

    kind: ScheduleKind
    num_stages: int
    num_micro_batches: int
    num_chunks: int
    placement: tuple[tuple[int, ...], ...]
    order: tuple[tuple[Slot, ...], ...]

    def __post_init__(self) -> None:
        stages = sorted(stage for chunks in self.placement for stage in chunks)
        if stages != list(range(self.num_virtual_stages)):
            raise StrategyError("schedule", "placement", f"{stages} does not place each virtual stage once")
        for device in range(self.num_stages):
            _check_complete(self, device)
        dependency_order(self)

    @property
    def num_virtual_stages(self) -> int:
        """Chunks of all devices."""
        return self.num_stages * self.num_chunks

    @property
    def device_of(self) -> tuple[int, ...]:
        """The device of each virtual stage."""
        return tuple(device for _, device in sorted((s, d) for d, chunks in enumerate(self.placement) for s in chunks))


def _check_complete(schedule: Schedule, device: int) -> None:
    """Refuses a device that leaves out or repeats the forward, input gradient or weight gradient of a micro-batch."""
    counts = Counter(work for slot in schedule.order[device] for action in slot for work in _work(action))
    expected = 3 * schedule.num_chunks * schedule.num_micro_batches
    if len(counts) != expected or counts.total() != expected:
        raise StrategyError(
            "schedule",
            f"order[{device}]",
            f"{len(counts)} kinds of work, {counts.total()} in all; expected each of {expected} exactly once",
        )


def _work(action: Action) -> Iterator[tuple[str, int, int]]:
    letters = "IW" if action.kind is ActionKind.BACKWARD else action.kind.value
    return ((letter, action.chunk, action.micro_batch) for letter in letters)


@lru_cache(maxsize=16)
def dependency_order(schedule: Schedule) -> tuple[int, ...]:
    """The devices in an order in which their next slots can run, each after all it waits for; refuses deadlock.

    Device d's k-th appearance stands for `schedule.order[d][k]`.
    """
    progress = _Progress(schedule)
    emitted: list[int] = []
    while len(emitted) < progress.num_slots:
        before = len(emitted)
        for device in range(schedule.num_stages):
            emitted.extend([device] * progress.advance(device))
        if len(emitted) == before:
            raise StrategyError("schedule", "order", progress.deadlock())
    return tuple(emitted)


class _Progress:
    """How far each device has come, and which activations and gradients exist."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.num_slots = sum(len(order) for order in schedule.order)
        self.position = [0] * schedule.num_stages
        size = (schedule.num_virtual_stages + 2) * schedule.num_micro_batches
        self.stride = schedule.num_micro_batches
        self.forward_done = bytearray(size)
        self.backward_done = bytearray(size)
        for micro_batch in range(self.stride):
            self.forward_done[micro_batch] = 1
            self.backward_done[size - 1 - micro_batch] = 1

    def advance(self, device: int) -> int:
        """Runs the device until it must wait; how many slots that were."""
        order, stages = self.schedule.order[device], self.schedule.placement[device]
        start = self.position[device]
        end = start
        while end < len(order) and self._run(order[end], stages):
            end += 1
        self.position[device] = end
        return end - start

    def _run(self, slot: Slot, stages: tuple[int, ...]) -> bool:
        """Whether all actions of the slot can start; if so, marks what they yield."""
        places = [(stages[action.chunk] + 1) * self.stride + action.micro_batch for action in slot]
        if not all(self._ready(action.kind, place) for action, place in zip(slot, places, strict=True)):
            return False
        for action, place in zip(slot, places, strict=True):
            if action.kind is ActionKind.FORWARD:
                self.forward_done[place] = 1
            elif action.kind is not ActionKind.BACKWARD_WEIGHT:
                self.backward_done[place] = 1
        return True

    def _ready(self, kind: ActionKind, place: int) -> bool:
        if kind is ActionKind.FORWARD:
            return bool(self.forward_done[place - self.stride])
        if kind is ActionKind.BACKWARD_WEIGHT:
            return bool(self.backward_done[place])
        return bool(self.forward_done[place] and self.backward_done[place + self.stride])

    def deadlock(self) -> str:
        """Which action each stuck device waits to start."""
        orders = enumerate(zip(self.schedule.order, self.position, strict=True))
        stuck = (f"{device}: {'&'.join(map(str, order[at]))}" for device, (order, at) in orders if at < len(order))
        return f"deadlock; device: next action is {', '.join(stuck)}"
