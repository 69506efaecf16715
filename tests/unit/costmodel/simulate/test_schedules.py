"""Schedules as data: the published orders, what is refused, and that none deadlocks."""

from __future__ import annotations

import itertools

import pytest

from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.simulate import Schedule, ScheduleKind, build_schedule, check_combination
from meshwright.costmodel.simulate.schedule import dependency_order


def written(schedule: Schedule) -> list[str]:
    """Each device's order in the notation of torch.distributed.pipelining: stage, kind, micro-batch."""
    return [
        " ".join(
            "&".join(f"{stages[action.chunk]}{action.kind}{action.micro_batch}" for action in slot) for slot in order
        )
        for order, stages in zip(schedule.order, schedule.placement, strict=True)
    ]


def test_one_f_one_b() -> None:
    assert written(build_schedule(ScheduleKind.ONE_F_ONE_B, 3, 4)) == [
        "0F0 0F1 0F2 0B0 0F3 0B1 0B2 0B3",
        "1F0 1F1 1B0 1F2 1B1 1F3 1B2 1B3",
        "2F0 2B0 2F1 2B1 2F2 2B2 2F3 2B3",
    ]


def test_gpipe() -> None:
    assert written(build_schedule(ScheduleKind.GPIPE, 2, 2)) == ["0F0 0F1 0B0 0B1", "1F0 1F1 1B0 1B1"]


def test_interleaved_goes_round_by_round() -> None:
    assert written(build_schedule(ScheduleKind.INTERLEAVED, 2, 4, 2)) == [
        "0F0 0F1 2F0 2F1 0F2 2B0 0F3 2B1 2F2 0B0 2F3 0B1 2B2 2B3 0B2 0B3",
        "1F0 1F1 3F0 3B0 3F1 3B1 1F2 1B0 1F3 1B1 3F2 3B2 3F3 3B3 1B2 1B3",
    ]


def test_zb_h1_puts_weight_gradients_off_by_the_device() -> None:
    assert written(build_schedule(ScheduleKind.ZB_H1, 2, 3)) == [
        "0F0 0F1 0I0 0W0 0F2 0I1 0W1 0I2 0W2",
        "1F0 1I0 1F1 1I1 1W0 1F2 1I2 1W1 1W2",
    ]


def test_zb_v_comes_back_to_the_first_device() -> None:
    assert written(build_schedule(ScheduleKind.ZB_V, 2, 3, 2)) == [
        "0F0 0F1 0F2 3F0 3I0 3W0 3F1 3I1 3W1 0I0 0W0 3F2 3I2 3W2 0I1 0W1 0I2 0W2",
        "1F0 2F0 1F1 2F1 2I0 2W0 1F2 1I0 1W0 2F2 2I1 2W1 1I1 2I2 1I2 1W1 2W2 1W2",
    ]


def test_dualpipe_v_overlaps_a_forward_with_the_other_chunks_backward() -> None:
    assert written(build_schedule(ScheduleKind.DUALPIPE_V, 2, 4, 2)) == [
        "0F0 0F1 0F2 3F0 3I0 3W0 3F1 0F3&3B1 3F2&0B0 3B2 3F3&0B1 3B3 0I2 0W2 0I3 0W3",
        "1F0 2F0 1F1 2F1 1F2 2B0 2F2&1B0 1F3&2B1 2F3&1B1 2B2 1B2 2I3 1I3 2W3 1W3",
    ]


@pytest.mark.parametrize("kind", ScheduleKind)
def test_no_schedule_deadlocks_or_leaves_work_out(kind: ScheduleKind) -> None:
    """A `Schedule` checks both when it is made; here every one that is not refused by its rule gets made."""
    made = 0
    for num_stages, num_micro_batches, chunks in itertools.product(
        range(1, 9), [*range(1, 13), 16, 24, 32], range(1, 5)
    ):
        try:
            check_combination(kind, num_stages, num_micro_batches, chunks)
        except StrategyError:
            continue
        schedule = build_schedule(kind, num_stages, num_micro_batches, chunks)
        assert len(dependency_order(schedule)) == sum(map(len, schedule.order))
        made += 1
    assert made >= 60


@pytest.mark.parametrize(
    ("kind", "num_stages", "num_micro_batches", "num_chunks", "message"),
    [
        (ScheduleKind.ONE_F_ONE_B, 0, 4, 1, "pp: 0 is not a positive whole number"),
        (ScheduleKind.ONE_F_ONE_B, 2, 4, 2, "vp: 1f1b needs exactly 1 virtual stages on a device, not 2"),
        (ScheduleKind.INTERLEAVED, 2, 4, 1, "vp: interleaved needs at least 2 virtual stages on a device, not 1"),
        (ScheduleKind.INTERLEAVED, 4, 9, 2, "9 micro-batches do not split into 2 equal rounds of at least pp 4"),
        (ScheduleKind.ZB_V, 4, 9, 3, "vp: zb-v needs exactly 2 virtual stages on a device, not 3"),
        (ScheduleKind.DUALPIPE_V, 4, 7, 2, "dualpipe-v needs at least 2 x pp 4 = 8 micro-batches, not 7"),
    ],
)
def test_illegal_combinations_name_the_rule(
    kind: ScheduleKind, num_stages: int, num_micro_batches: int, num_chunks: int, message: str
) -> None:
    with pytest.raises(StrategyError, match=message):
        build_schedule(kind, num_stages, num_micro_batches, num_chunks)


def test_an_order_that_deadlocks_is_refused() -> None:
    """Each device waits for the other: 0 for the gradient of micro-batch 0, 1 for the activations of micro-batch 1."""
    good = build_schedule(ScheduleKind.ONE_F_ONE_B, 2, 2)
    (forward_0, forward_1, backward_0, backward_1), _ = good.order
    order = ((forward_0, backward_0, forward_1, backward_1), (forward_0, forward_1, backward_0, backward_1))
    with pytest.raises(StrategyError, match="deadlock; device: next action is 0: 0B0, 1: 0F1"):
        Schedule(kind=good.kind, num_stages=2, num_micro_batches=2, num_chunks=1, placement=good.placement, order=order)


def test_an_order_with_a_repeated_action_is_refused() -> None:
    good = build_schedule(ScheduleKind.ONE_F_ONE_B, 1, 2)
    order = (good.order[0][:2] * 2,)
    with pytest.raises(StrategyError, match="expected each of 6 exactly once"):
        Schedule(kind=good.kind, num_stages=1, num_micro_batches=2, num_chunks=1, placement=good.placement, order=order)
