"""One training step, told event by event."""

from __future__ import annotations

import numpy as np
import pytest

from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.simulate import (
    Durations,
    OverlapPolicy,
    Schedule,
    ScheduleKind,
    SpanKind,
    StepTimeline,
    Term,
    TermLayout,
    build_schedule,
    chunk_durations,
    critical_path,
    lower_bound_paths,
    simulate,
    step_time_s,
)


def layout_of(schedule: Schedule) -> TermLayout:
    return TermLayout(num_stages=schedule.num_stages, num_chunks=schedule.num_chunks)


def log(timeline: StepTimeline, device: int) -> list[str]:
    """What a device did: start-end, kind, chunk.micro-batch."""
    return [
        f"{span.start_s:g}-{span.end_s:g} {span.kind} {span.chunk}.{span.micro_batch}"
        for span in timeline.spans()
        if span.device == device
    ]


def test_gradient_accumulation_on_one_device() -> None:
    """No pipeline: forward, backward, forward, backward; then the reduction of the last layer's gradient is late."""
    schedule = build_schedule(ScheduleKind.ONE_F_ONE_B, 1, 2)
    durations = chunk_durations(
        layout_of(schedule),
        forward_s=4,
        backward_input_s=4,
        backward_weight_s=4,
        num_layers=4,
        param_gather_s=2,
        grad_reduce_s=4,
        barrier_s=0.5,
        optimizer_s=1,
    )
    assert log(simulate(schedule, durations), 0) == [
        "0.5-4.5 F 0.0",  # after the first of four buckets of parameters
        "4.5-12.5 B 0.0",
        "12.5-16.5 F 0.1",
        "16.5-24.5 B 0.1",
        "0-2 param_gather 0.-1",
        "18.5-25.5 grad_reduce 0.-1",  # from the last layer's gradient to one bucket after the first layer's
        "26-27 optimizer -1.-1",
    ]


def test_one_f_one_b_of_two_uneven_stages() -> None:
    """The second stage is slower, so the first waits for it in the steady state, and each transfer takes 1."""
    schedule = build_schedule(ScheduleKind.ONE_F_ONE_B, 2, 3)
    durations = chunk_durations(
        layout_of(schedule),
        forward_s=[[2], [3]],
        backward_input_s=[[2], [3]],
        backward_weight_s=[[2], [3]],
        forward_hop_s=1,
        backward_hop_s=1,
    )
    timeline = simulate(schedule, durations)
    assert log(timeline, 0)[:6] == [
        "0-2 F 0.0",
        "2-4 F 0.1",
        "13-17 B 0.0",
        "17-19 F 0.2",
        "22-26 B 0.1",
        "31-35 B 0.2",
    ]
    assert log(timeline, 1)[:6] == [
        "3-6 F 0.0",
        "6-12 B 0.0",
        "12-15 F 0.1",
        "15-21 B 0.1",
        "21-24 F 0.2",
        "24-30 B 0.2",
    ]
    assert timeline.step_time_s == 35.0


def test_zb_h1_fills_the_cool_down_with_weight_gradients() -> None:
    schedule = build_schedule(ScheduleKind.ZB_H1, 2, 2)
    durations = chunk_durations(layout_of(schedule), forward_s=1, backward_input_s=1, backward_weight_s=1)
    timeline = simulate(schedule, durations)
    assert log(timeline, 0)[:6] == ["0-1 F 0.0", "1-2 F 0.1", "3-4 I 0.0", "4-5 W 0.0", "5-6 I 0.1", "6-7 W 0.1"]
    assert log(timeline, 1)[:6] == ["1-2 F 0.0", "2-3 I 0.0", "3-4 F 0.1", "4-5 I 0.1", "5-6 W 0.0", "6-7 W 0.1"]


def test_overlapped_pair_takes_its_joint_time() -> None:
    """DualPipeV on one device with F&B = F + B - 0.5: two of the four forwards run in pairs."""
    schedule = build_schedule(ScheduleKind.DUALPIPE_V, 1, 2, 2)
    durations = chunk_durations(
        layout_of(schedule), forward_s=1, backward_input_s=1, backward_weight_s=1, overlap_saving_s=0.5
    )
    timeline = simulate(schedule, durations)
    assert log(timeline, 0)[:8] == [
        "0-1 F 0.0",
        "1-2 F 1.0",
        "2-3 F 0.1",
        "3-5 B 1.0",
        "5-7.5 F 1.1",
        "5-7.5 B 0.0",
        "7.5-9.5 B 1.1",
        "9.5-10.5 I 0.1",
    ]
    assert timeline.busy_s(0)[SpanKind.FORWARD] == 3 + 1.25


def test_blocking_transfers_cost_both_sides() -> None:
    """After each slot the device sends and receives at once; the steady state pays two exchanges a micro-batch."""
    schedule = build_schedule(ScheduleKind.ONE_F_ONE_B, 2, 3)
    durations = chunk_durations(
        layout_of(schedule),
        forward_s=2,
        backward_input_s=1,
        backward_weight_s=1,
        forward_hop_s=0.5,
        backward_hop_s=0.25,
    )
    timeline = simulate(schedule, durations, OverlapPolicy(point_to_point=False))
    assert log(timeline, 1)[:6] == [
        "2.5-4.5 F 0.0",
        "4.5-6.5 B 0.0",
        "7-9 F 0.1",  # sends a gradient and receives activations: 0.5, the longer
        "9-11 B 0.1",
        "11.5-13.5 F 0.2",
        "13.5-15.5 B 0.2",
    ]
    assert timeline.step_time_s == 15.75 + 2


def test_communication_that_is_not_overlapped_is_exposed() -> None:
    schedule = build_schedule(ScheduleKind.INTERLEAVED, 1, 2, 2)
    durations = chunk_durations(
        layout_of(schedule),
        forward_s=1,
        backward_input_s=1,
        backward_weight_s=1,
        num_layers=2,
        param_gather_s=[[3, 4]],
        grad_reduce_s=[[5, 6]],
    )
    exposed = OverlapPolicy(grad_reduce=False, param_gather=False)
    assert step_time_s(schedule, durations, exposed) == (3 + 4) + 2 * 2 * 3 + (5 + 6)
    assert log(simulate(schedule, durations, exposed), 0)[-3:] == [
        "19-25 grad_reduce 1.-1",  # the last chunk's gradients are complete first
        "25-30 grad_reduce 0.-1",
        "30-30 optimizer -1.-1",
    ]


def test_gathers_and_reductions_share_one_stream() -> None:
    """Two chunks on one device: the second gather follows the first, and so do the reductions."""
    schedule = build_schedule(ScheduleKind.INTERLEAVED, 1, 1, 2)
    durations = chunk_durations(
        layout_of(schedule), forward_s=1, backward_input_s=1, backward_weight_s=1, param_gather_s=4, grad_reduce_s=8
    )
    assert log(simulate(schedule, durations), 0) == [
        "4-5 F 0.0",
        "8-9 F 1.0",
        "9-11 B 1.0",
        "11-13 B 0.0",
        "0-4 param_gather 0.-1",
        "4-8 param_gather 1.-1",
        "11-19 grad_reduce 1.-1",
        "19-27 grad_reduce 0.-1",
        "27-27 optimizer -1.-1",
    ]


def test_critical_path_of_one_f_one_b_counts_the_slow_stage() -> None:
    """Warm-up and cool-down pass every stage once; the slow one is paid for each micro-batch.

    But for its second forward: that hides under the round trip of the first micro-batch through the last stage, which
    is longer by 1. (So the step is shorter than sum_p T_p + (m-1) max_p T_p = 50, a formula often used.)
    """
    schedule = build_schedule(ScheduleKind.ONE_F_ONE_B, 3, 7)
    slow = [[1.0], [2.0], [1.0]]
    durations = chunk_durations(
        layout_of(schedule), forward_s=slow, backward_input_s=slow, backward_weight_s=slow, barrier_s=1, optimizer_s=1
    )
    path = critical_path(schedule, durations)
    assert path.of(Term.FORWARD).tolist() == [[1.0], [6.0], [1.0]]
    assert path.of(Term.BACKWARD_INPUT).tolist() == [[1.0], [7.0], [1.0]]
    assert path.of(Term.BACKWARD_WEIGHT).tolist() == [[1.0], [7.0], [1.0]]
    assert path.of(Term.FORWARD_HOP).tolist() == path.of(Term.BACKWARD_HOP).tolist() == [1.0, 1.0]
    assert path.of(Term.BARRIER) == 1.0
    assert path.of(Term.OPTIMIZER).sum() == 1.0
    assert path.length_s(durations) == step_time_s(schedule, durations) == 1 + 2 + 3 + (5 * 2 + 7 * 4) + 2 + 2


def test_critical_path_through_a_reduction() -> None:
    """Reducing takes longer than the backward: it starts after one layer of the last backward, and is paid whole."""
    schedule = build_schedule(ScheduleKind.ONE_F_ONE_B, 1, 3)
    durations = chunk_durations(
        layout_of(schedule), forward_s=2, backward_input_s=2, backward_weight_s=2, num_layers=2, grad_reduce_s=20
    )
    path = critical_path(schedule, durations)
    paid = {term: float(path.of(term).sum()) for term in Term if path.of(term).any()}
    assert paid == {
        Term.FORWARD: 3.0,
        Term.BACKWARD_INPUT: 2.0,
        Term.BACKWARD_WEIGHT: 2.0,
        Term.BACKWARD_INPUT_LAST_LAYER: 1.0,
        Term.BACKWARD_WEIGHT_LAST_LAYER: 1.0,
        Term.GRAD_REDUCE: 1.0,
        Term.BARRIER: 1.0,
        Term.OPTIMIZER: 1.0,
    }


def test_lower_bound_paths_know_every_device_as_bottleneck() -> None:
    paths = lower_bound_paths(ScheduleKind.ONE_F_ONE_B, 4, 16, 1)
    gradients = [path.of(Term.BACKWARD_INPUT).ravel().tolist() for path in paths]
    assert {tuple(counts).index(16.0) for counts in gradients if 16.0 in counts} == {0, 1, 2, 3}


def test_step_of_1440_gpus_is_small() -> None:
    """PP 15, 180 micro-batches: one event a slot and ten a device, whatever the number of replicas."""
    schedule = build_schedule(ScheduleKind.ONE_F_ONE_B, 15, 180)
    durations = chunk_durations(layout_of(schedule), forward_s=1, backward_input_s=1, backward_weight_s=1)
    timeline = simulate(schedule, durations)
    assert 2 * 15 * 180 < len(timeline.times_s) <= 2 * 15 * 180 + 10 * 15


@pytest.mark.parametrize(("term", "value"), [(Term.FORWARD, -1.0), (Term.BARRIER, np.nan), (Term.GRAD_REDUCE, np.inf)])
def test_durations_must_be_finite_and_not_negative(term: Term, value: float) -> None:
    layout = TermLayout(num_stages=2, num_chunks=1)
    vector = np.zeros(layout.size)
    vector[layout.span(term)] = value
    with pytest.raises(StrategyError, match=f"durations: {term}: .* is not finite and >= 0"):
        Durations(layout=layout, vector=vector)


def test_a_pair_cannot_save_more_than_its_forward() -> None:
    with pytest.raises(StrategyError, match="overlap_saving: larger than the forward"):
        chunk_durations(
            TermLayout(num_stages=1, num_chunks=2),
            forward_s=1,
            backward_input_s=1,
            backward_weight_s=1,
            overlap_saving_s=2,
        )
