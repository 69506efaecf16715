from __future__ import annotations

import msgspec
import pytest

from meshwright.costmodel.errors import InputError
from meshwright.planner.changes import CHANGES
from meshwright.planner.plan import Plan
from meshwright.planner.what_if import WhatIf, parse_changes, what_if


def _speedup(result: WhatIf) -> float:
    return result.planned.step_time_s / result.prediction.step_time_s


def test_without_changes_the_plan_gives_its_own_prediction(tiny_plan: Plan) -> None:
    result = what_if(tiny_plan, ())
    assert result.prediction == tiny_plan.prediction
    assert result.reproduces
    assert (result.fits, result.over_limit, result.warnings) == (True, (), ())


@pytest.mark.parametrize(
    "text", ["nvlink_bytes_per_s=2x", "cluster.nvlink_bytes_per_s=900 GB/s", "nvlink_bytes_per_s=9e11"]
)
def test_a_faster_link_can_be_given_in_three_ways(tiny_plan: Plan, text: str) -> None:
    result = what_if(tiny_plan, (text,))
    (change,) = result.changes
    assert (change.key, change.before, change.after) == ("cluster.nvlink_bytes_per_s", 450e9, 900e9)
    assert _speedup(result) > 1


def test_a_faster_network_helps_and_a_slower_one_hurts(tiny_plan: Plan) -> None:
    sixteen = "num_gpus=16"
    times_s = [
        what_if(tiny_plan, (sixteen, f"network_bytes_per_s={factor}x")).prediction.step_time_s for factor in (2, 1, 0.1)
    ]
    assert times_s == sorted(times_s)
    assert times_s[0] < times_s[-1]


def test_data_parallelism_takes_up_more_gpus(tiny_plan: Plan) -> None:
    result = what_if(tiny_plan, ("num_gpus=16",))
    assert 1 < _speedup(result) < 2
    assert result.prediction.tokens_per_s_per_gpu < tiny_plan.prediction.tokens_per_s_per_gpu


def test_a_longer_sequence_takes_more_of_everything(tiny_plan: Plan) -> None:
    result = what_if(tiny_plan, ("seq_len=4096",))
    assert result.prediction.step_time_s > 1.5 * result.planned.step_time_s
    assert max(result.prediction.peak_memory_bytes) > max(result.planned.peak_memory_bytes)


def test_what_no_longer_fits_is_an_answer(tiny_plan: Plan) -> None:
    needed = tiny_plan.prediction.peak_memory_bytes
    result = what_if(tiny_plan, ("usable_memory_bytes=2 GiB",))
    assert not result.fits
    assert [over.stage for over in result.over_limit] == [
        stage for stage, peak in enumerate(needed) if peak > result.prediction.memory_limit_bytes
    ]
    assert result.over_limit[0].over_bytes == needed[0] - result.prediction.memory_limit_bytes


def test_changes_are_checked_together(tiny_plan: Plan) -> None:
    with pytest.raises(InputError, match="exactly 2 virtual stages"):
        what_if(tiny_plan, ("schedule=zb-v",))
    result = what_if(tiny_plan, ("virtual_stages=2", "schedule=zb-v"))
    assert [change.key for change in result.changes] == ["pipeline.schedule", "pipeline.virtual_stages"]


def test_another_gpu_brings_its_memory_and_its_links(tiny_plan: Plan) -> None:
    assert what_if(tiny_plan, ("gpu=h200",)).prediction.memory_limit_bytes > tiny_plan.prediction.memory_limit_bytes
    slow = what_if(tiny_plan, ("gpu=h800",))
    assert _speedup(slow) < 1
    assert what_if(tiny_plan, ("nvlink_bytes_per_s=450 GB/s", "gpu=h800")).prediction.step_time_s == pytest.approx(
        tiny_plan.prediction.step_time_s
    )


def test_recomputing_everything_saves_memory_and_costs_time(tiny_plan: Plan) -> None:
    result = what_if(tiny_plan, ("recompute=full",))
    assert result.changes[0].before == "none, full"
    assert _speedup(result) < 1
    assert result.prediction.peak_memory_bytes[0] < result.planned.peak_memory_bytes[0]


@pytest.mark.parametrize("key", CHANGES)
def test_every_key_takes_its_present_value(tiny_plan: Plan, key: str) -> None:
    """Setting a field to what it is changes nothing; where layers differ there is no one value."""
    from meshwright.planner.draft import draft_of
    from meshwright.planner.plan_conversion import configuration_of

    present = CHANGES[key].get(draft_of(configuration_of(tiny_plan)))
    if key == "layers.recompute":
        assert present == "none, full"
        return
    value = "h100" if key == "cluster.gpu" else str(getattr(present, "value", present))
    assert what_if(tiny_plan, (f"{key}={value}",)).prediction == tiny_plan.prediction


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seq_len", "--set: seq_len: expected key=value, for example workload.seq_len=16384"),
        ("seq_len=", "--set: seq_len=: expected key=value"),
        ("netwrk_bytes_per_s=3", "--set: netwrk_bytes_per_s: unknown key; did you mean cluster.network_bytes_per_s?"),
        ("colour=red", "--set: colour: unknown key; expected one of cluster.gpu, "),
        ("seq_len=long", "--set: workload.seq_len: 'long' is not a positive whole number"),
        ("seq_len=2047", "--set: workload.seq_len=2047: workload seq_len: 2047 is not a multiple of sp x tp = 2"),
        (
            "global_batch=7",
            "--set: workload.global_batch=7: workload global_batch: 7 sequences are not a multiple of dp 2",
        ),
        ("network_bytes_per_s=0", "--set: cluster.network_bytes_per_s: '0' is not a positive finite quantity"),
        ("network_bytes_per_s=nan", "--set: cluster.network_bytes_per_s: 'nan' is not a positive finite quantity"),
        ("network_bytes_per_s=4 GB", "--set: cluster.network_bytes_per_s: unit 'GB' of '4 GB' is not one of"),
        ("usable_memory_bytes=1 TB", "--set: cluster.usable_memory_bytes=1 TB: is more than gpu.memory_bytes"),
        ("oversubscription=0.5", "--set: cluster.oversubscription: '0.5' is not a number >= 1"),
        ("num_gpus=12", "--set: cluster.num_gpus=12: 12 GPUs are not a multiple of the 8 GPUs of a node"),
        ("num_gpus=10", "--set: cluster.num_gpus=10: 10 GPUs are not a multiple of the 4 of a replica"),
        ("precision=fp4", "--set: workload.precision: 'fp4' is unknown; expected one of bf16, fp8"),
        ("gpu=b200", "--set: cluster.gpu: 'b200' is unknown; expected one of a100, "),
        ("virtual_stages=3", "--set: pipeline.virtual_stages=3: pipeline virtual_stages: 6 virtual stages, but only 4"),
        ("schedule=1b1f", "--set: pipeline.schedule: '1b1f' is unknown; expected one of"),
    ],
)
def test_what_cannot_be_set_is_one_line(tiny_plan: Plan, text: str, expected: str) -> None:
    with pytest.raises(InputError) as caught:
        what_if(tiny_plan, (text,))
    assert str(caught.value).startswith(expected)


def test_a_key_given_twice_is_refused() -> None:
    with pytest.raises(InputError, match="given twice"):
        parse_changes(("seq_len=1", "workload.seq_len=2"))


def test_fp8_needs_a_gpu_that_has_it(tiny_plan: Plan) -> None:
    with pytest.raises(InputError, match="fp8"):
        what_if(tiny_plan, ("gpu=a100", "precision=fp8"))


def test_a_plan_of_another_version_says_so(tiny_plan: Plan) -> None:
    older = msgspec.structs.replace(tiny_plan, meshwright_version="0.0.1")
    assert "0.0.1" in what_if(older, ()).warnings[0]
