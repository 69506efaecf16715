"""Laws of the pipeline simulation: closed forms, lower-bound paths, monotony."""

from __future__ import annotations

import heapq
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwright.costmodel.formulas.pipeline import (
    dualpipe_bubble_s,
    interleaved_bubble_s,
    one_f_one_b_bubble_s,
    zb_h1_bubble_s,
    zb_v_bubble_s,
)
from meshwright.costmodel.simulate import (
    Durations,
    OverlapPolicy,
    Schedule,
    ScheduleKind,
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

SECONDS = st.floats(0.1, 10.0)
CASES = [(1, 1), (1, 8), (2, 2), (2, 7), (3, 12), (4, 4), (4, 32), (5, 25), (8, 16), (8, 64), (15, 180)]


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    kind = draw(st.sampled_from(ScheduleKind))
    num_stages = draw(st.integers(1, 5))
    rounds = draw(st.integers(2, 4))
    chunks = {ScheduleKind.INTERLEAVED: draw(st.integers(2, 3)), ScheduleKind.ZB_V: 2, ScheduleKind.DUALPIPE_V: 2}
    extra = 0 if kind is ScheduleKind.INTERLEAVED else draw(st.integers(0, 3))
    return build_schedule(kind, num_stages, rounds * num_stages + extra, chunks.get(kind, 1))


@st.composite
def steps(draw: st.DrawFn, num_durations: int) -> tuple[Schedule, OverlapPolicy, tuple[Durations, ...]]:
    """A schedule, an overlap policy, and unrelated random durations for it, a third of the terms zero."""
    schedule = draw(schedules())
    overlap = OverlapPolicy(
        point_to_point=draw(st.booleans()), grad_reduce=draw(st.booleans()), param_gather=draw(st.booleans())
    )
    seeds = draw(st.lists(st.integers(0, 2**32 - 1), min_size=num_durations, max_size=num_durations))
    return schedule, overlap, tuple(random_durations(schedule, seed) for seed in seeds)


def random_durations(schedule: Schedule, seed: int) -> Durations:
    random = np.random.default_rng(seed)
    layout = TermLayout(num_stages=schedule.num_stages, num_chunks=schedule.num_chunks)
    vector = random.exponential(size=layout.size) * (random.random(layout.size) > 1 / 3)
    saving, forward = layout.span(Term.OVERLAP_SAVING), layout.span(Term.FORWARD)
    vector[saving] = np.minimum(vector[saving], vector[forward])
    for term in (Term.FORWARD, Term.BACKWARD_INPUT, Term.BACKWARD_WEIGHT):
        last_layer = layout.span(Term(f"{term}_last_layer"))
        vector[last_layer] = np.minimum(vector[last_layer], vector[layout.span(term)])
    for term in (Term.PARAM_GATHER, Term.GRAD_REDUCE):
        first_layer = layout.span(Term(f"{term}_first_layer"))
        vector[first_layer] = np.minimum(vector[first_layer], vector[layout.span(term)])
    return Durations(layout=layout, vector=vector)


def equal_stages(
    kind: ScheduleKind, num_stages: int, num_micro_batches: int, num_chunks: int, *chunk_s: float
) -> StepTimeline:
    """A step of equal stages whose communication is free; `chunk_s` are F, I, W (and the overlap's saving)."""
    schedule = build_schedule(kind, num_stages, num_micro_batches, num_chunks)
    forward_s, backward_input_s, backward_weight_s, saving_s = (*chunk_s, 0.0)[:4]
    durations = chunk_durations(
        TermLayout(num_stages=num_stages, num_chunks=num_chunks),
        forward_s=forward_s,
        backward_input_s=backward_input_s,
        backward_weight_s=backward_weight_s,
        overlap_saving_s=saving_s,
    )
    return simulate(schedule, durations)


def approx(timeline: StepTimeline, bubble_s: float) -> object:
    """The closed form, to 1e-12 of the step (a bubble is a small difference of long times)."""
    return pytest.approx(bubble_s, rel=1e-12, abs=1e-12 * timeline.step_time_s)


@pytest.mark.parametrize(("num_stages", "num_micro_batches"), [*CASES, (8, 3), (4, 1)])
@pytest.mark.parametrize("kind", [ScheduleKind.ONE_F_ONE_B, ScheduleKind.GPIPE])
@pytest.mark.parametrize("chunk_s", [(1.0, 1.0, 1.0), (0.7, 1.3, 0.4), (2.0, 0.5, 0.3)])
def test_one_f_one_b_bubble(
    kind: ScheduleKind, num_stages: int, num_micro_batches: int, chunk_s: tuple[float, float, float]
) -> None:
    timeline = equal_stages(kind, num_stages, num_micro_batches, 1, *chunk_s)
    expected = one_f_one_b_bubble_s(num_stages, chunk_s[0], chunk_s[1] + chunk_s[2])
    for bubble_s in timeline.bubble_s:
        assert bubble_s == approx(timeline, expected)


@given(st.integers(1, 8), st.integers(1, 5), st.integers(2, 4), SECONDS, SECONDS, SECONDS)
def test_interleaved_bubble(p: int, rounds: int, v: int, forward_s: float, input_s: float, weight_s: float) -> None:
    timeline = equal_stages(ScheduleKind.INTERLEAVED, p, rounds * p, v, forward_s, input_s, weight_s)
    expected = interleaved_bubble_s(p, v, v * forward_s, v * (input_s + weight_s))
    for bubble_s in timeline.bubble_s:
        assert bubble_s == approx(timeline, expected)


@given(st.integers(1, 8), st.integers(0, 20), SECONDS, SECONDS, SECONDS)
def test_zb_h1_bubble(p: int, more: int, forward_s: float, input_s: float, weight_s: float) -> None:
    """Whatever F, I and W; where W is the least of them, that is the published (PP - 1)(F + B - 2W)."""
    timeline = equal_stages(ScheduleKind.ZB_H1, p, p + more, 1, forward_s, input_s, weight_s)
    expected = zb_h1_bubble_s(p, forward_s, input_s + weight_s, weight_s)
    if weight_s <= min(forward_s, input_s):
        published = (p - 1) * (forward_s + (input_s + weight_s) - 2 * weight_s)
        assert expected == pytest.approx(published, rel=1e-12, abs=1e-12 * timeline.step_time_s)
    for bubble_s in timeline.bubble_s:
        assert bubble_s == approx(timeline, expected)


@given(st.integers(1, 8), st.integers(0, 20), SECONDS)
def test_zb_v_never_waits_between_its_actions_when_forward_input_weight_are_equal(
    p: int, more: int, seconds: float
) -> None:
    """F = I = W and at least 2 PP micro-batches: every bubble lies before a device's first or after its last action."""
    timeline = equal_stages(ScheduleKind.ZB_V, p, 2 * p + more, 2, seconds, seconds, seconds)
    spans = [[s for s in timeline.spans() if s.device == device and s.micro_batch >= 0] for device in range(p)]
    for of_device, bubble_s, busy_s in zip(spans, timeline.bubble_s, timeline.slot_busy_s, strict=True):
        assert of_device[-1].end_s - of_device[0].start_s == approx(timeline, busy_s)
        assert bubble_s == approx(timeline, zb_v_bubble_s(p, seconds))


@given(st.integers(1, 8), st.integers(0, 20), SECONDS, st.floats(0.0, 1.0))
def test_dualpipe_v_bubble_when_forward_input_weight_are_equal(p: int, more: int, seconds: float, saved: float) -> None:
    """F = I = W, any F&B between B and F + B: the published form is the largest bubble of the devices, exactly."""
    chunk_s = (seconds, seconds, seconds, saved * seconds)
    timeline = equal_stages(ScheduleKind.DUALPIPE_V, p, 2 * p + more, 2, *chunk_s)
    expected = dualpipe_bubble_s(2 * p, 3 * seconds - saved * seconds, 2 * seconds, seconds)
    assert max(timeline.bubble_s) == approx(timeline, expected)


@given(st.integers(1, 8), st.integers(0, 20), SECONDS, st.floats(1.0, 3.0), st.floats(0.0, 1.0))
def test_dualpipe_v_bubble_is_within_a_forward_of_the_published_form(
    p: int, more: int, forward_s: float, input_ratio: float, weight_ratio: float
) -> None:
    """I >= F and I >= W: the last device's first pair, left apart on purpose, saves at most one F of it."""
    input_s = input_ratio * forward_s
    weight_s = weight_ratio * input_s
    timeline = equal_stages(ScheduleKind.DUALPIPE_V, p, 2 * p + more, 2, forward_s, input_s, weight_s)
    backward_s = input_s + weight_s
    published = dualpipe_bubble_s(2 * p, forward_s + backward_s, backward_s, weight_s)
    tolerance = 1e-12 * timeline.step_time_s
    assert published - forward_s - tolerance <= max(timeline.bubble_s) <= published + tolerance


@given(steps(num_durations=2))
def test_a_path_is_the_step_time_where_it_is_longest_and_a_lower_bound_elsewhere(
    step: tuple[Schedule, OverlapPolicy, tuple[Durations, Durations]],
) -> None:
    schedule, overlap, (here, elsewhere) = step
    path = critical_path(schedule, here, overlap)
    assert path.length_s(here) == pytest.approx(step_time_s(schedule, here, overlap), rel=1e-12)
    assert path.length_s(elsewhere) <= step_time_s(schedule, elsewhere, overlap) * (1 + 1e-12)


@given(steps(num_durations=1))
def test_lower_bound_paths_never_exceed_the_step_time(
    step: tuple[Schedule, OverlapPolicy, tuple[Durations]],
) -> None:
    schedule, overlap, (durations,) = step
    numbers = (schedule.num_stages, schedule.num_micro_batches, schedule.num_chunks)
    for path in lower_bound_paths(schedule.kind, *numbers, overlap):
        assert path.length_s(durations) <= step_time_s(schedule, durations, overlap) * (1 + 1e-12)


@given(steps(num_durations=1))
def test_a_step_is_no_shorter_than_what_any_device_has_to_do(
    step: tuple[Schedule, OverlapPolicy, tuple[Durations]],
) -> None:
    schedule, overlap, (durations,) = step
    timeline = simulate(schedule, durations, overlap)
    after_s = durations.of(Term.BARRIER) + durations.of(Term.OPTIMIZER)
    reduce_s = durations.of(Term.GRAD_REDUCE).sum(axis=1)
    gather_s = durations.of(Term.PARAM_GATHER).sum(axis=1)
    slowdown_s = durations.of(Term.STATE_SLOWDOWN)
    least = 1 - 1e-12
    for device, busy_s in enumerate(timeline.slot_busy_s):
        assert timeline.step_time_s >= (busy_s + slowdown_s[device] + after_s[device]) * least
        assert timeline.step_time_s >= (gather_s[device] + reduce_s[device] + after_s[device]) * least
        if not (overlap.grad_reduce or overlap.param_gather):
            assert timeline.step_time_s >= (gather_s[device] + busy_s + reduce_s[device] + after_s[device]) * least


@given(steps(num_durations=1), st.data())
def test_a_longer_duration_never_shortens_the_step(
    step: tuple[Schedule, OverlapPolicy, tuple[Durations]], data: st.DataObject
) -> None:
    """But for the saving of an overlapped pair, which is subtracted."""
    schedule, overlap, (durations,) = step
    term = data.draw(st.sampled_from([term for term in Term if term is not Term.OVERLAP_SAVING]))
    vector = durations.vector.copy()
    vector[durations.layout.span(term)] += 1.0
    longer = Durations(layout=durations.layout, vector=vector)
    assert step_time_s(schedule, longer, overlap) >= step_time_s(schedule, durations, overlap) * (1 - 1e-12)


@given(steps(num_durations=1))
def test_no_two_slots_of_a_device_overlap_and_inputs_come_first(
    step: tuple[Schedule, OverlapPolicy, tuple[Durations]],
) -> None:
    schedule, overlap, (durations,) = step
    timeline = simulate(schedule, durations, overlap)
    slack = 1e-9 * timeline.step_time_s
    forward_end = {}
    for device in range(schedule.num_stages):
        slots = [s for s in timeline.spans() if s.device == device and s.micro_batch >= 0]
        for earlier, later in pairwise(slots):
            paired = (earlier.start_s, earlier.end_s) == (later.start_s, later.end_s)
            assert paired or later.start_s >= earlier.end_s - slack
        for span in slots:
            if span.kind == "F":
                forward_end[schedule.placement[device][span.chunk], span.micro_batch] = (span.start_s, span.end_s)
    for (stage, micro_batch), (start_s, _) in forward_end.items():
        if stage:
            hop_s = float(durations.of(Term.FORWARD_HOP)[stage - 1])
            same_device = schedule.device_of[stage] == schedule.device_of[stage - 1]
            assert start_s >= forward_end[stage - 1, micro_batch][1] + (0 if same_device else hop_s) - slack


@given(steps(num_durations=1))
def test_overlapping_more_is_never_slower(step: tuple[Schedule, OverlapPolicy, tuple[Durations]]) -> None:
    schedule, overlap, (durations,) = step
    assert step_time_s(schedule, durations) <= step_time_s(schedule, durations, overlap) * (1 + 1e-12)


def pipeline_time_by_clock_s(schedule: Schedule, durations: Durations) -> float:
    """A plain simulator with a clock and a heap: devices take their next slot when its inputs have arrived."""
    f, i, w, saving = (
        durations.of(term) for term in (Term.FORWARD, Term.BACKWARD_INPUT, Term.BACKWARD_WEIGHT, Term.OVERLAP_SAVING)
    )
    hops = {"F": durations.of(Term.FORWARD_HOP), "B": durations.of(Term.BACKWARD_HOP)}
    arrived: set[tuple[str, int, int]] = set()
    free_slots = [list(order) for order in schedule.order]
    idle = set(range(schedule.num_stages))
    clock, heap = 0.0, [(0.0, -1, ("start", -1, -1))]
    while heap:
        clock, freed, arrival = heapq.heappop(heap)
        arrived.add(arrival)
        idle |= {freed} - {-1}
        for device in sorted(idle):
            if not free_slots[device]:
                continue
            slot, stages, lasts, yields = free_slots[device][0], schedule.placement[device], 0.0, []
            needs = set()
            for action in slot:
                stage, chunk = stages[action.chunk], (device, action.chunk)
                if action.kind == "F":
                    lasts += f[chunk] - (saving[chunk] if len(slot) > 1 else 0.0)
                    needs |= {("F", stage - 1, action.micro_batch)} if stage else set()
                    yields.append(("F", stage, stage + 1, stage, action.micro_batch))
                else:
                    lasts += (i[chunk] if action.kind in "BI" else 0.0) + (w[chunk] if action.kind in "BW" else 0.0)
                    if action.kind in "BI":
                        last = stage == schedule.num_virtual_stages - 1
                        needs |= set() if last else {("B", stage + 1, action.micro_batch)}
                        yields.append(("B", stage, stage - 1, stage - 1, action.micro_batch))
            if needs <= arrived:
                free_slots[device].pop(0)
                idle.remove(device)
                for letter, stage, to, hop, micro_batch in yields:
                    inside = 0 <= to < schedule.num_virtual_stages
                    remote = inside and schedule.device_of[to] != device
                    delay_s = float(hops[letter][hop]) if remote else 0.0
                    heapq.heappush(heap, (clock + lasts + delay_s, -1, (letter, stage, micro_batch)))
                heapq.heappush(heap, (clock + lasts, device, ("free", device, -1)))
    assert not any(free_slots)
    return clock


@given(steps(num_durations=1))
def test_the_longest_path_is_what_a_clock_and_a_heap_say(
    step: tuple[Schedule, OverlapPolicy, tuple[Durations]],
) -> None:
    """Compute and transfers alone; the last events of the heap may be gradients that arrive nowhere, with no hop."""
    schedule, _, (durations,) = step
    vector = durations.vector.copy()
    for term in Term:
        if "gather" in term or "reduce" in term or term in (Term.BARRIER, Term.OPTIMIZER):
            vector[durations.layout.span(term)] = 0.0
    quiet = Durations(layout=durations.layout, vector=vector)
    expected = pipeline_time_by_clock_s(schedule, quiet)
    assert simulate(schedule, quiet).pipeline_time_s == pytest.approx(expected, rel=1e-12)
