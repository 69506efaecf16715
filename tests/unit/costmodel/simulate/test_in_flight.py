"""Activations held at a time."""

from __future__ import annotations

import pytest

from meshwright.costmodel.simulate import Held, ScheduleKind, build_schedule, in_flight, in_flight_held


@pytest.mark.parametrize(("num_stages", "num_micro_batches"), [(1, 1), (1, 9), (4, 2), (4, 4), (4, 9), (8, 32)])
def test_one_f_one_b_holds_one_micro_batch_per_hop_to_the_end(num_stages: int, num_micro_batches: int) -> None:
    held = in_flight(build_schedule(ScheduleKind.ONE_F_ONE_B, num_stages, num_micro_batches))
    assert held == tuple(((min(num_micro_batches, num_stages - device),),) for device in range(num_stages))


def test_gpipe_holds_all() -> None:
    assert in_flight(build_schedule(ScheduleKind.GPIPE, 3, 7)) == (((7,),),) * 3


@pytest.mark.parametrize("num_chunks", [2, 4])
def test_interleaved_holds_as_megatron_says(num_chunks: int) -> None:
    """(v-1) P + 2 (P-1-p) warm-up forwards, and the one that is running (arXiv 2205.05198, section 4.2.3)."""
    held = in_flight(build_schedule(ScheduleKind.INTERLEAVED, 4, 16, num_chunks))
    totals = [max(map(sum, device)) for device in held]
    assert totals == [(num_chunks - 1) * 4 + 2 * (3 - device) + 1 for device in range(4)]


def test_interleaved_has_moments_that_no_other_exceeds() -> None:
    """The first chunk is fullest when a round of it has just gone in, the second when the round has moved on."""
    assert in_flight(build_schedule(ScheduleKind.INTERLEAVED, 2, 4, 2)) == (((4, 1), (3, 2)), ((3, 0), (2, 1)))


def test_zb_h1_holds_no_more_whole_micro_batches_than_one_f_one_b() -> None:
    """What its device p puts off is p weight gradients, so that every device holds P in all.

    At the fullest moment one more is in its input gradient.
    """
    held = in_flight_held(build_schedule(ScheduleKind.ZB_H1, 4, 16))
    assert held == tuple((Held(total=(4,), late=(device + 1,)),) for device in range(4))
    assert in_flight(build_schedule(ScheduleKind.ZB_H1, 4, 16)) == (((4,),),) * 4


def test_zb_v_holds_two_p_halves_everywhere() -> None:
    """As much as 1F1B's first device, P of twice the size (arXiv 2405.15362, table 2)."""
    held = in_flight(build_schedule(ScheduleKind.ZB_V, 4, 16, 2))
    assert [max(map(sum, device)) for device in held] == [8, 8, 8, 8]


def test_dualpipe_v_holds_one_more_than_its_virtual_stages() -> None:
    """deepseek-ai/DualPipe, README: PP + 1."""
    held = in_flight(build_schedule(ScheduleKind.DUALPIPE_V, 4, 16, 2))
    assert [max(map(sum, device)) for device in held] == [9, 9, 9, 9]


def test_a_micro_batch_is_late_from_its_input_gradient_to_its_weight_gradient() -> None:
    """One device of ZB-V, 2 micro-batches: two chunks forward, then an input and a weight gradient of each in turn."""
    (alone,) = in_flight_held(build_schedule(ScheduleKind.ZB_V, 1, 2, 2))
    assert all(max(held.late) <= 1 and held.late <= held.total for held in alone)
    assert max(sum(held.late) for held in alone) >= 1


@pytest.mark.parametrize("kind", [ScheduleKind.ONE_F_ONE_B, ScheduleKind.GPIPE])
def test_nothing_is_late_where_the_backward_is_one_action(kind: ScheduleKind) -> None:
    assert {held.late for device in in_flight_held(build_schedule(kind, 4, 8)) for held in device} == {(0,)}
