"""A recorded step lies beside the predicted one in one trace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.order.launch_order import PassKind
from meshwright.costmodel.program.operators import Operator, Resource
from meshwright.costmodel.stage_cost import cost_context
from meshwright.executor.layer.groups import ALONE
from meshwright.executor.observe.spans import OperatorAt, PartAt, PassAt, Span, StepSpans
from meshwright.executor.ranks.place import Place
from meshwright.executor.stopwatch import StepPart
from meshwright.executor.train.rank_events import RankEvents
from meshwright.executor.train.run_trace import write_run_trace
from meshwright.planner.trace.action_slices import Lane


def part(part: StepPart, name: str, start_s: float, end_s: float) -> Span:
    return Span(what=PartAt(part=part, name=name), start_s=start_s, end_s=end_s)


def ran(
    operator: Operator, micro_batch: int, start_s: float, end_s: float, stream: Resource = Resource.COMPUTE
) -> Span:
    within = PassAt(title="layer 1", kind=PassKind.FORWARD, micro_batch=micro_batch)
    return Span(what=OperatorAt(within=within, operator=operator, stream=stream), start_s=start_s, end_s=end_s)


@pytest.fixture
def operators(tiny_configuration: TrainingConfiguration) -> dict[str, Operator]:
    program = cost_context(tiny_configuration).program(
        tiny_configuration.model.layers[0], tiny_configuration.stages[0][0]
    )
    return {operator.name: operator for operator in program.forward}


@pytest.fixture
def step(operators: dict[str, Operator]) -> StepSpans:
    """Three forwards of a layer of two operators, a wait, and the end of the step."""
    spans = []
    for number in range(3):
        begin_s = float(10 * number)
        spans += [
            part(StepPart.WAIT, f"waits: micro-batch {number} of stage 0", begin_s, begin_s + 1),
            part(StepPart.FORWARD, f"forward {number}", begin_s + 1, begin_s + 9),
            ran(operators["qkv"], number, begin_s + 2, begin_s + 4),
            ran(operators["dispatch"], number, begin_s + 4, begin_s + 8, Resource.NVLINK),
        ]
    spans += [
        part(StepPart.GRADIENTS, "gradients", 30.0, 31.0),
        part(StepPart.OPTIMIZER, "optimizer", 31.0, 32.0),
    ]
    return StepSpans(zero_s=100.0, spans=tuple(spans))


def slices(step: StepSpans, place: Place, **choices: Any) -> list[tuple[str, str, int, float, float]]:  # noqa: ANN401
    """Name, category, thread, begin and end in seconds."""
    made = RankEvents(step, place, "host", **{"start_s": 0.0, "max_slices": 100, **choices}).events()
    return [
        (one["name"], one["cat"], one["tid"] - 10 * one["pid"], one["ts"] / 1e6, (one["ts"] + one["dur"]) / 1e6)
        for one in made
        if one["ph"] == "X"
    ]


def test_a_forward_beside_a_backward_has_a_thread_of_its_own(
    operators: dict[str, Operator], tiny_configuration: TrainingConfiguration
) -> None:
    """Operators of the two take turns: each pass is one slice all the same."""
    forward = PassAt(title="layer 1", kind=PassKind.FORWARD, micro_batch=3, beside=True)
    backward = PassAt(title="layer 2", kind=PassKind.DGRAD, micro_batch=1)
    turns = ((forward, "qkv", 1.0), (backward, "attention", 2.0), (forward, "dispatch", 3.0))
    spans = (
        Span(what=PartAt(part=StepPart.FORWARD, name="forward 3", beside=True), start_s=0.0, end_s=5.0),
        part(StepPart.BACKWARD, "backward 1", 0.0, 5.0),
        *(
            Span(what=OperatorAt(within=within, operator=operators[name]), start_s=start_s, end_s=start_s + 1)
            for within, name, start_s in turns
        ),
    )
    found = slices(StepSpans(zero_s=0.0, spans=spans), Place(mesh=tiny_configuration.mesh, rank=0), max_slices=1000)
    on_threads = [one[:1] + one[2:] for one in found if one[2] in (Lane.ACTIONS, Lane.FORWARD_BESIDE)]
    assert on_threads == [
        ("forward 3", Lane.FORWARD_BESIDE, 0.0, 5.0),
        ("backward 1", Lane.ACTIONS, 0.0, 5.0),
        ("layer 1 forward", Lane.FORWARD_BESIDE, 1.0, 4.0),
        ("layer 2 dgrad", Lane.ACTIONS, 2.0, 3.0),
    ]


def test_everything_is_on_the_thread_where_the_simulator_puts_it(
    step: StepSpans, tiny_configuration: TrainingConfiguration
) -> None:
    place = Place(mesh=tiny_configuration.mesh, rank=3)
    assert slices(step, place)[:5] == [
        ("waits: micro-batch 0 of stage 0", "wait", Lane.ACTIONS, 0.0, 1.0),
        ("forward 0", "forward", Lane.ACTIONS, 1.0, 9.0),
        ("layer 1 forward", "layer", Lane.ACTIONS, 2.0, 8.0),
        ("qkv", "forward", Lane.COMPUTE, 2.0, 4.0),
        ("dispatch", "forward", Lane.NVLINK, 4.0, 8.0),
    ]
    assert slices(step, place)[-2:] == [
        ("gradient reduction", "gradient reduction", Lane.DATA_PARALLEL, 30.0, 31.0),
        ("optimizer", "optimizer", Lane.ACTIONS, 31.0, 32.0),
    ]


def test_a_collective_that_blocks_is_on_the_thread_of_the_compute_stream(
    operators: dict[str, Operator], tiny_configuration: TrainingConfiguration
) -> None:
    step = StepSpans(zero_s=0.0, spans=(ran(operators["dispatch"], 0, 1.0, 2.0),))
    assert slices(step, Place(mesh=tiny_configuration.mesh, rank=0))[1:] == [
        ("dispatch", "forward", Lane.COMPUTE, 1.0, 2.0)
    ]


def test_a_rank_that_began_later_is_shown_later(step: StepSpans, tiny_configuration: TrainingConfiguration) -> None:
    place = Place(mesh=tiny_configuration.mesh, rank=3)
    assert slices(step, place, start_s=0.5)[0][3:] == (0.5, 1.5)


def test_of_too_many_operators_those_of_the_middle_stay(
    step: StepSpans, tiny_configuration: TrainingConfiguration
) -> None:
    place = Place(mesh=tiny_configuration.mesh, rank=0)
    found = slices(step, place, max_slices=2)
    assert [(name, start_s) for name, _, lane, start_s, _ in found if lane == Lane.COMPUTE] == [("qkv", 12.0)]
    assert sum(name.startswith("forward") for name, *_ in found) == 3


def test_one_file_has_the_prediction_and_the_ranks(
    step: StepSpans, tiny_configuration: TrainingConfiguration, tmp_path: Path
) -> None:
    place = Place(mesh=tiny_configuration.mesh, rank=0)
    write_run_trace(step, tiny_configuration, place, ALONE, tmp_path)
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    named = {one["pid"]: one["args"]["name"] for one in events if one["name"] == "process_name"}
    assert named == {1: "stage 0: 4 GPUs, predicted", 2: "rank 0: stage 0, measured"}
    order = {one["pid"]: one["args"]["sort_index"] for one in events if one["name"] == "process_sort_index"}
    assert order == {1: 0, 2: 1}
    assert {one["name"] for one in events if one["pid"] == 1} >= {"dispatch", "optimizer", "layer 1 forward"}
