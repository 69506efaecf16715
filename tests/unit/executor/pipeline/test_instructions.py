"""The messages between devices match, and no order of them blocks, whatever the schedule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest

from meshwright.costmodel.simulate import Schedule, ScheduleKind, build_schedule, simulate
from meshwright.costmodel.simulate.actions import ActionKind, single
from meshwright.costmodel.simulate.durations import chunk_durations
from meshwright.costmodel.simulate.terms import TermLayout
from meshwright.executor.pipeline.instructions import (
    Compute,
    Instruction,
    Passage,
    Receive,
    Send,
    SlotTimes,
    backwards_behind,
    device_instructions,
    incoming,
    outgoing,
)

SCHEDULES = [
    build_schedule(ScheduleKind.ONE_F_ONE_B, 4, 6),
    build_schedule(ScheduleKind.GPIPE, 3, 4),
    build_schedule(ScheduleKind.INTERLEAVED, 4, 8, 3),
    build_schedule(ScheduleKind.ZB_H1, 4, 6),
    build_schedule(ScheduleKind.ZB_V, 3, 8, 2),
    build_schedule(ScheduleKind.DUALPIPE_V, 3, 8, 2),
    build_schedule(ScheduleKind.ONE_F_ONE_B, 1, 3),
]


def title(schedule: Schedule) -> str:
    return f"{schedule.kind} {schedule.num_stages}"


def planned(schedule: Schedule, seed: int = 0, hop_s: float = 0.01) -> SlotTimes:
    """The times of a step whose parts take 0.5 to 1.5 s, or exactly 1 s for seed 0."""
    random = np.random.default_rng(seed)
    layout = TermLayout(num_stages=schedule.num_stages, num_chunks=schedule.num_chunks)

    def drawn() -> npt.NDArray[np.float64]:
        spread = 0.5 if seed else 0.0
        return random.uniform(1.0 - spread, 1.0 + spread, (schedule.num_stages, schedule.num_chunks))

    durations = chunk_durations(
        layout,
        forward_s=drawn(),
        backward_input_s=drawn(),
        backward_weight_s=drawn(),
        forward_hop_s=hop_s,
        backward_hop_s=hop_s,
    )
    timeline = simulate(schedule, durations)
    return [timeline.slot_times_s(device) for device in range(schedule.num_stages)]


def equal(schedule: Schedule) -> SlotTimes:
    """Everything at once."""
    return [[(0.0, 0.0) for _ in slots] for slots in schedule.order]


def drawn(schedule: Schedule) -> SlotTimes:
    """Times that no step has."""
    random = np.random.default_rng(3)
    return [[(float(begin), float(end)) for begin, end in random.random((len(slots), 2))] for slots in schedule.order]


@pytest.fixture(params=[planned, partial(planned, seed=1), partial(planned, seed=2, hop_s=0.0), equal, drawn])
def times_of(request: pytest.FixtureRequest) -> Callable[[Schedule], SlotTimes]:
    """Gives the slots of a schedule times: those of some plan, or any."""
    return request.param  # type: ignore[no-any-return]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=title)
def test_every_message_is_sent_and_expected_once(schedule: Schedule, times_of: Callable[[Schedule], SlotTimes]) -> None:
    lists = device_instructions(schedule, times_of(schedule))
    sent = Counter(
        (device, item.device, item.passage)
        for device, instructions in enumerate(lists)
        for item in instructions
        if isinstance(item, Send)
    )
    expected = Counter(
        (item.device, device, item.passage)
        for device, instructions in enumerate(lists)
        for item in instructions
        if isinstance(item, Receive)
    )
    assert sent == expected
    assert set(sent.values()) <= {1}


@pytest.mark.parametrize("schedule", SCHEDULES, ids=title)
def test_slots_keep_the_order_of_the_schedule(schedule: Schedule, times_of: Callable[[Schedule], SlotTimes]) -> None:
    for device, instructions in enumerate(device_instructions(schedule, times_of(schedule))):
        slots = [item.slot for item in instructions if isinstance(item, Compute)]
        assert slots == list(schedule.order[device])


@pytest.mark.parametrize("schedule", SCHEDULES, ids=title)
def test_a_slot_expects_what_it_needs_beforehand(schedule: Schedule, times_of: Callable[[Schedule], SlotTimes]) -> None:
    device_of = schedule.device_of
    for device, instructions in enumerate(device_instructions(schedule, times_of(schedule))):
        expected = set()
        for item in instructions:
            if isinstance(item, Receive):
                expected.add(item.passage)
            for action in item.slot if isinstance(item, Compute) else ():
                number = schedule.placement[device][action.chunk]
                needed = incoming(action, number, schedule.num_virtual_stages)
                assert needed is None or device_of[needed.source] == device or needed in expected


@pytest.mark.parametrize("schedule", SCHEDULES, ids=title)
def test_nobody_waits_for_ever_even_where_sends_block_until_they_are_received(
    schedule: Schedule, times_of: Callable[[Schedule], SlotTimes]
) -> None:
    left = [list(instructions) for instructions in device_instructions(schedule, times_of(schedule))]
    while any(left):
        before = sum(map(len, left))
        for device in range(len(left)):
            _advance(left, device)
        assert sum(map(len, left)) < before


def _advance(left: list[list[Instruction]], device: int) -> None:
    """Run what needs nobody else, and a message whose other side is at it."""
    while left[device]:
        item = left[device][0]
        if not isinstance(item, Compute):
            other = left[item.device]
            if not other or isinstance(other[0], Compute) or other[0].passage != item.passage:
                return
            other.pop(0)
        left[device].pop(0)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("schedule", SCHEDULES, ids=title)
def test_both_sides_issue_a_message_when_it_is_there(schedule: Schedule, seed: int) -> None:
    """No earlier: it would hold SMs of slots before. No later: it would wait for slots behind, or till their end."""
    times_s = planned(schedule, seed)
    there_s: dict[Passage | None, float] = {
        outgoing(action, schedule.placement[device][action.chunk], schedule.num_virtual_stages): end_s
        for device, slots in enumerate(schedule.order)
        for slot, (_, end_s) in zip(slots, times_s[device], strict=True)
        for action in slot
    }
    for device, instructions in enumerate(device_instructions(schedule, times_s)):
        begins_s = iter([begin_s for begin_s, _ in times_s[device]])
        order_s = [next(begins_s) if isinstance(item, Compute) else there_s[item.passage] for item in instructions]
        assert all(one <= other + 1e-9 for one, other in pairwise(order_s))


def test_backwards_behind_each_other() -> None:
    warm, steady = [single(ActionKind.FORWARD, 0, number)[0] for number in (0, 1)], single(ActionKind.FORWARD, 0, 2)[0]
    first, second, third = (single(ActionKind.BACKWARD_INPUT, 0, number)[0] for number in (0, 1, 2))
    weights = single(ActionKind.BACKWARD_WEIGHT, 0, 1)[0]
    assert backwards_behind([*warm, first, steady, second, weights, third]) == {second: third}
