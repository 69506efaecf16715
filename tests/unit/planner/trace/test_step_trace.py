"""A trace is checked as a viewer reads it: from its JSON, against the prediction."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import pytest

from meshwright.costmodel.circumstances import Circumstances, SlowGpu
from meshwright.costmodel.configuration import Pipeline, TrainingConfiguration
from meshwright.costmodel.errors import InputError
from meshwright.costmodel.runtime import load_runtime
from meshwright.costmodel.simulate import ScheduleKind
from meshwright.costmodel.stage_cost import stage_costs
from meshwright.costmodel.step import StepPrediction, predict
from meshwright.planner.plan import Plan
from meshwright.planner.trace import step_trace, write_trace
from meshwright.planner.trace.action_slices import LANE_WORDS, Lane
from meshwright.planner.trace.stage_events import ACTIVATIONS_COUNTER, MEMORY_COUNTER

replace = msgspec.structs.replace

Event: TypeAlias = dict[str, Any]
NS = 1e-3  # in microseconds

SCHEDULES = {
    "1f1b": Pipeline(),
    "gpipe": Pipeline(schedule=ScheduleKind.GPIPE),
    "interleaved": Pipeline(schedule=ScheduleKind.INTERLEAVED, virtual_stages=2),
    "zb-h1": Pipeline(schedule=ScheduleKind.ZB_H1),
    "zb-v": Pipeline(schedule=ScheduleKind.ZB_V, virtual_stages=2),
    "dualpipe-v": Pipeline(schedule=ScheduleKind.DUALPIPE_V, virtual_stages=2),
}


def _with_pipeline(configuration: TrainingConfiguration, pipeline: Pipeline) -> TrainingConfiguration:
    layers = [strategy for stage in configuration.stages for strategy in stage]
    size = len(layers) // (configuration.mesh.pp * pipeline.virtual_stages)
    stages = tuple(tuple(layers[start : start + size]) for start in range(0, len(layers), size))
    return replace(configuration, pipeline=pipeline, stages=stages)


@pytest.fixture(params=list(SCHEDULES))
def configuration(tiny_configuration: TrainingConfiguration, request: pytest.FixtureRequest) -> TrainingConfiguration:
    """The tiny model under each schedule."""
    return _with_pipeline(tiny_configuration, SCHEDULES[request.param])


@pytest.fixture
def prediction(configuration: TrainingConfiguration) -> StepPrediction:
    return predict(configuration)


@pytest.fixture
def events(configuration: TrainingConfiguration) -> list[Event]:
    return _events(configuration)


def _events(configuration: TrainingConfiguration, max_operator_slices: int = 10**9) -> list[Event]:
    events: list[Event] = json.loads(step_trace(configuration, max_operator_slices))["traceEvents"]
    return events


def _slices(events: list[Event]) -> list[Event]:
    return [event for event in events if event["ph"] == "X"]


def _threads(events: list[Event]) -> dict[tuple[int, str], list[Event]]:
    """Slices by process and name of the thread, in the order of their start, outer ones first."""
    names = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    threads = defaultdict(list)
    for event in sorted(_slices(events), key=lambda event: (event["ts"], -event["dur"])):
        threads[event["pid"], names[event["tid"]]].append(event)
    return threads


def _counter(events: list[Event], name: str, pid: int) -> dict[float, float]:
    found = [event for event in events if event["ph"] == "C" and event["name"] == name and event["pid"] == pid]
    return {event["ts"]: event["args"]["bytes"] for event in found}


def test_events_have_what_the_format_requires(events: list[Event]) -> None:
    required = {
        "X": {"name", "cat", "pid", "tid", "ts", "dur"},
        "C": {"name", "pid", "ts", "args"},
        "M": {"name", "args"},
    }
    for event in events:
        assert required[event["ph"]] <= event.keys()
        assert event.get("ts", 0.0) >= 0.0
        assert event.get("dur", 1.0) > 0.0


def test_the_trace_ends_with_the_step(events: list[Event], prediction: StepPrediction) -> None:
    end_us = max(event["ts"] + event["dur"] for event in _slices(events))
    assert end_us == pytest.approx(prediction.step_time_s * 1e6, abs=NS)


def test_slices_of_a_stream_never_overlap(events: list[Event]) -> None:
    nested = LANE_WORDS[Lane.ACTIONS]
    streams = {key: slices for key, slices in _threads(events).items() if key[1] != nested}
    assert {name for _, name in streams} >= {LANE_WORDS[Lane.COMPUTE], LANE_WORDS[Lane.NVLINK]}
    for slices in streams.values():
        ends = [event["ts"] + event["dur"] for event in slices]
        assert all(later["ts"] >= end - NS / 2 for end, later in zip(ends, slices[1:], strict=False))


def test_layers_lie_inside_their_actions(events: list[Event]) -> None:
    for (_, name), slices in _threads(events).items():
        if name != LANE_WORDS[Lane.ACTIONS]:
            continue
        open_ends: list[float] = []
        for event in slices:
            while open_ends and open_ends[-1] <= event["ts"] + NS / 2:
                open_ends.pop()
            assert not open_ends or event["ts"] + event["dur"] <= open_ends[-1] + NS / 2
            open_ends.append(event["ts"] + event["dur"])


def test_every_action_is_there_once(events: list[Event], configuration: TrainingConfiguration) -> None:
    chunks, count = len(configuration.stages), configuration.num_micro_batches
    seen = [
        (event["cat"], event["args"]["virtual stage"], event["args"]["micro-batch"])
        for event in _slices(events)
        if "micro-batch" in event.get("args", {})
    ]
    assert len(set(seen)) == len(seen)
    assert sum(category == "forward" for category, *_ in seen) == chunks * count
    assert sum(category in ("backward", "dgrad") for category, *_ in seen) == chunks * count


def test_the_highest_counter_is_the_predicted_peak(events: list[Event], prediction: StepPrediction) -> None:
    for device, memory in enumerate(prediction.memory):
        assert max(_counter(events, MEMORY_COUNTER, device + 1).values()) == memory.total
        activations = _counter(events, ACTIVATIONS_COUNTER, device + 1)
        assert max(activations.values()) == memory.activations
        assert list(activations.values())[-1] == 0.0


def test_activations_are_those_of_the_micro_batches_in_flight(
    events: list[Event], configuration: TrainingConfiguration
) -> None:
    """Counted again from the slices: a micro-batch is held from its forward's start to its last backward's end, and is
    late from its input gradient's start.
    """
    costs = stage_costs(configuration)
    for device in range(configuration.mesh.pp):
        actions = [event for event in _slices(events) if "micro-batch" in event.get("args", {})]
        held: dict[tuple[int, int], tuple[float, float]] = {}
        late_us: dict[tuple[int, int], float] = {}
        for event in (action for action in actions if action["pid"] == device + 1):
            key = (event["args"]["virtual stage"], event["args"]["micro-batch"])
            start_us, end_us = held.get(key, (event["ts"], 0.0))
            held[key] = min(start_us, event["ts"]), max(end_us, event["ts"] + event["dur"])
            if event["cat"] == "dgrad":
                late_us[key] = event["ts"]
        for time_us, num_bytes in _counter(events, ACTIVATIONS_COUNTER, device + 1).items():
            middle = time_us + NS / 2
            now = [key for key, (start, end) in held.items() if start <= middle < end]
            expected = sum(costs[stage].kept_bytes for stage, _ in now)
            expected += sum(costs[key[0]].late_bytes for key in now if late_us.get(key, middle) < middle)
            assert num_bytes == pytest.approx(expected)


def test_a_slow_stage_is_drawn_as_slow_as_it_is(tiny_configuration: TrainingConfiguration) -> None:
    slow = Circumstances(slow_gpu=SlowGpu(time_factor=2.0, stage=1))
    configuration = replace(tiny_configuration, circumstances=slow)
    events, prediction = _events(configuration), predict(configuration)
    assert prediction.step_time_s > predict(tiny_configuration).step_time_s
    end_us = max(event["ts"] + event["dur"] for event in _slices(events))
    assert end_us == pytest.approx(prediction.step_time_s * 1e6, abs=NS)
    scales = defaultdict(set)
    for event in _slices(events):
        if event["cat"] == "layer":
            scales[event["pid"]].add(round(event.get("args", {}).get("operator times scaled by", 1.0), 6))
    assert scales[1] == {1.0}
    assert min(scales[2]) > 1.0


def test_arrows_follow_a_micro_batch_there_and_back(events: list[Event], configuration: TrainingConfiguration) -> None:
    chains = defaultdict(list)
    for event in sorted(_slices(events), key=lambda event: event["ts"]):
        if "bind_id" in event:
            chains[event["bind_id"]].append(event)
    assert len(chains) == configuration.num_micro_batches
    stages = list(range(len(configuration.stages)))
    for chain in chains.values():
        assert [event["args"]["virtual stage"] for event in chain] == [*stages, *reversed(stages)]
        assert [event.get("flow_in", False) for event in chain] == [False, *[True] * (len(chain) - 1)]
        assert [event.get("flow_out", False) for event in chain] == [*[True] * (len(chain) - 1), False]


def test_what_computes_is_what_the_breakdown_counts(tiny_configuration: TrainingConfiguration) -> None:
    """Nothing overlapped, the host far ahead: the compute stream has the prediction's seconds, by kind."""
    runtime = load_runtime("meshwright")
    alone = replace(runtime, overlap=type(runtime.overlap)(), cuda_graphs=True)
    configuration = replace(tiny_configuration, runtime=alone)
    prediction = predict(configuration)
    compute = [
        event for (_, name), slices in _threads(_events(configuration)).items() if name == "compute" for event in slices
    ]
    attention = sum(
        event["dur"] for event in compute if event["name"].startswith("attention") and event["cat"] != "recomputed"
    )
    per_stage_s = attention / 1e6 / configuration.mesh.pp
    assert per_stage_s == pytest.approx(prediction.breakdown_s["attention"], rel=1e-3)


def test_only_some_micro_batches_show_operators_in_a_large_trace(tiny_configuration: TrainingConfiguration) -> None:
    def shown(max_operator_slices: int) -> int:
        events = _events(tiny_configuration, max_operator_slices)
        return sum(event["name"] == "embedding forward" for event in _slices(events))

    assert shown(10**9) == tiny_configuration.num_micro_batches
    assert shown(0) == 1
    assert 1 < shown(700) < tiny_configuration.num_micro_batches


def test_a_stage_says_what_it_stands_for(events: list[Event], configuration: TrainingConfiguration) -> None:
    names = [event["args"]["name"] for event in events if event["name"] == "process_name"]
    assert names == ["stage 0: 4 GPUs", "stage 1: 4 GPUs"]
    labels = [event["args"]["labels"] for event in events if event["name"] == "process_labels"]
    v_shaped = configuration.pipeline.schedule in (ScheduleKind.ZB_V, ScheduleKind.DUALPIPE_V)
    interleaved = configuration.pipeline.schedule is ScheduleKind.INTERLEAVED
    expected = ["layers 0, 3", "layers 1-2"] if v_shaped else ["layers 0, 2", "layers 1, 3"]
    assert labels == (expected if v_shaped or interleaved else ["layers 0-1", "layers 2-3"])


def test_a_fused_kernel_is_one_slice_on_each_of_its_streams(tiny_configuration: TrainingConfiguration) -> None:
    fused = [event for event in _slices(_events(tiny_configuration)) if "fused" in event.get("args", {})]
    assert fused
    for event in fused:
        twins = [
            (other["pid"], other["dur"])
            for other in fused
            if other["ts"] == event["ts"] and other["pid"] == event["pid"]
        ]
        assert twins == [(event["pid"], event["dur"])] * 2
        assert " + " in event["name"]


def test_a_plan_is_written_whole(tiny_plan: Plan, tmp_path: Path) -> None:
    write_trace(tiny_plan, tmp_path / "trace.json")
    trace = json.loads((tmp_path / "trace.json").read_text())
    assert trace["otherData"]["step_time_s"] == tiny_plan.prediction.step_time_s
    assert [path.name for path in tmp_path.iterdir()] == ["trace.json"]


def test_what_cannot_be_written_is_refused(tiny_plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="it is a directory"):
        write_trace(tiny_plan, tmp_path)
    with pytest.raises(InputError, match="there is no directory"):
        write_trace(tiny_plan, tmp_path / "no" / "trace.json")
