"""The messages between devices match, and no order of them blocks, whatever the schedule."""

from __future__ import annotations

from collections import Counter

import pytest

from meshwright.costmodel.simulate import Schedule, ScheduleKind, build_schedule
from meshwright.costmodel.simulate.actions import ActionKind, single
from meshwright.executor.pipeline.instructions import (
    Compute,
    Instruction,
    Receive,
    Send,
    backwards_behind,
    device_instructions,
    incoming,
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


@pytest.mark.parametrize("schedule", SCHEDULES, ids=title)
def test_every_message_is_sent_and_expected_once(schedule: Schedule) -> None:
    lists = device_instructions(schedule)
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
def test_slots_keep_the_order_of_the_schedule(schedule: Schedule) -> None:
    for device, instructions in enumerate(device_instructions(schedule)):
        slots = [item.slot for item in instructions if isinstance(item, Compute)]
        assert slots == list(schedule.order[device])


@pytest.mark.parametrize("schedule", SCHEDULES, ids=title)
def test_a_slot_expects_what_it_needs_beforehand(schedule: Schedule) -> None:
    device_of = schedule.device_of
    for device, instructions in enumerate(device_instructions(schedule)):
        expected = set()
        for item in instructions:
            if isinstance(item, Receive):
                expected.add(item.passage)
            for action in item.slot if isinstance(item, Compute) else ():
                number = schedule.placement[device][action.chunk]
                needed = incoming(action, number, schedule.num_virtual_stages)
                assert needed is None or device_of[needed.source] == device or needed in expected


@pytest.mark.parametrize("schedule", SCHEDULES, ids=title)
def test_nobody_waits_for_ever_even_where_sends_block_until_they_are_received(schedule: Schedule) -> None:
    left = [list(instructions) for instructions in device_instructions(schedule)]
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


def test_backwards_behind_each_other() -> None:
    warm, steady = [single(ActionKind.FORWARD, 0, number)[0] for number in (0, 1)], single(ActionKind.FORWARD, 0, 2)[0]
    first, second, third = (single(ActionKind.BACKWARD_INPUT, 0, number)[0] for number in (0, 1, 2))
    weights = single(ActionKind.BACKWARD_WEIGHT, 0, 1)[0]
    assert backwards_behind([*warm, first, steady, second, weights, third]) == {second: third}
