from __future__ import annotations

import msgspec
import pytest

from meshwright.costmodel.errors import InputError
from meshwright.planner.changes import CHANGES, parse_changes
from meshwright.planner.plan import Plan
from meshwright.planner.what_if import WhatIf, answer, baseline_of, changed, what_if

WITHOUT_ONE_VALUE = {"layers.recompute": "none, full", "model.dense_intermediate": "none", "run.tokens": 0.0}
"""Keys whose present value is none that could be set: layers differ, there is no such part, there is no goal."""


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


def test_degrees_tp_and_sp_are_those_of_the_layers(tiny_plan: Plan) -> None:
    """Embedding and head of this plan are split over tp, its layers over sp."""
    plan = msgspec.structs.replace(tiny_plan, mesh=msgspec.structs.replace(tiny_plan.mesh, tp=2, sp=1))
    baseline = baseline_of(plan)
    same = changed(baseline, {"mesh.sp": "2"})
    assert (same.changes[0].before, same.changes[0].after) == (2, 2)
    assert same.configuration == baseline.configuration
    as_ends = changed(baseline, {"mesh.tp": "2", "mesh.sp": "1"}).configuration
    assert {(strategy.tp, strategy.sp) for stage in as_ends.stages for strategy in stage} == {(2, 1)}
    wider = changed(baseline, {"mesh.sp": "4"}).configuration
    assert (wider.mesh.tp, wider.mesh.sp, wider.mesh.dp) == (1, 4, 1)
    assert {(strategy.tp, strategy.sp) for stage in wider.stages for strategy in stage} == {(1, 4)}


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


def test_a_price_alone_is_worth_an_outlook(tiny_plan: Plan) -> None:
    outlook = what_if(tiny_plan, ("price_per_gpu_hour=2.5",)).outlook
    assert outlook is not None
    assert outlook.expected is not None
    assert outlook.expected.cost == pytest.approx(2.5 * outlook.expected.gpu_hours)


def test_a_factor_on_a_plain_number(tiny_plan: Plan) -> None:
    (change,) = what_if(tiny_plan, ("oversubscription=2x",)).changes
    assert (change.before, change.after) == (1.0, 2.0)
    with pytest.raises(InputError, match=r"'0\.5x' is not a number >= 1"):
        what_if(tiny_plan, ("oversubscription=0.5x",))


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
    """Setting a field to what it is changes nothing, to the last digit."""
    present = CHANGES[key].get(baseline_of(tiny_plan).draft)
    if key in WITHOUT_ONE_VALUE:
        assert present == WITHOUT_ONE_VALUE[key]
        return
    result = what_if(tiny_plan, (f"{key}={getattr(present, 'value', present)}",))
    assert result.prediction == tiny_plan.prediction
    assert result.warnings == ()


def test_all_keys_together_take_their_present_values(tiny_plan: Plan) -> None:
    draft = baseline_of(tiny_plan).draft
    present = {key: change.get(draft) for key, change in CHANGES.items() if key not in WITHOUT_ONE_VALUE}
    texts = tuple(f"{key}={getattr(value, 'value', value)}" for key, value in present.items())
    assert what_if(tiny_plan, texts).prediction == tiny_plan.prediction


def test_a_plan_asked_many_times_answers_as_one_asked_once(tiny_plan: Plan) -> None:
    baseline = baseline_of(tiny_plan)
    for text in ("nvlink_bytes_per_s=2x", "top_k=4", "nvlink_bytes_per_s=2x"):
        assert answer(baseline, changed(baseline, parse_changes((text,)))) == what_if(tiny_plan, (text,))
    assert baseline == baseline_of(tiny_plan)


def test_data_parallelism_takes_up_what_another_mesh_leaves(tiny_plan: Plan) -> None:
    changed_mesh = changed(baseline_of(tiny_plan), {"mesh.pp": "1"}).configuration
    assert (changed_mesh.mesh.dp, changed_mesh.mesh.num_gpus) == (4, 8)
    assert [len(stage) for stage in changed_mesh.stages] == [4]


def test_the_order_in_which_changes_are_given_does_not_matter(tiny_plan: Plan) -> None:
    texts = ("mesh.tp=2", "mesh.sp=1", "num_heads=16", "gpus_per_node=4", "gpu=h200", "nvlink_bytes_per_s=2x")
    assert what_if(tiny_plan, texts) == what_if(tiny_plan, tuple(reversed(texts)))


def test_another_strategy_is_said_to_run_in_an_order_solved_anew(tiny_plan: Plan) -> None:
    (warning,) = what_if(tiny_plan, ("recompute=sar",)).warnings
    assert warning == "one kind of layer runs its operators in an order solved anew"
    assert what_if(tiny_plan, ("network_bytes_per_s=2x", "top_k=4", "seq_len=4096")).warnings == ()


def test_what_is_about_a_whole_run_is_answered_with_its_outlook(tiny_plan: Plan) -> None:
    assert what_if(tiny_plan, ("seq_len=4096",)).outlook is None
    result = what_if(tiny_plan, ("restart_s=1 h", "tokens=2e12"))
    assert result.outlook is not None
    assert result.outlook.tokens == 2e12
    assert result.prediction == tiny_plan.prediction


def test_a_gpu_without_fp8_has_no_peak_of_it(tiny_plan: Plan) -> None:
    result = what_if(tiny_plan, ("gpu=a100", "fp8_flops_per_s=none"))
    assert result.changes[1].before == result.changes[1].after == "none"
    assert result.prediction == what_if(tiny_plan, ("gpu=a100",)).prediction


def test_a_switch_is_on_or_off(tiny_plan: Plan) -> None:
    graphs = what_if(tiny_plan, ("cuda_graphs=on",))
    assert (graphs.changes[0].before, graphs.changes[0].after) == (False, True)
    assert graphs.prediction.step_time_s <= graphs.planned.step_time_s


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seq_len", "--set: seq_len: expected key=value, for example workload.seq_len=16384"),
        ("seq_len=", "--set: seq_len=: expected key=value"),
        ("netwrk_bytes_per_s=3", "--set: netwrk_bytes_per_s: unknown key; did you mean cluster.network_bytes_per_s?"),
        ("colour=red", "--set: colour: unknown key; expected one of cluster.gpu, "),
        ("seq_len=long", "--set: workload.seq_len: 'long' is not a positive whole number"),
        ("seq_len=2047", "--set: workload.seq_len=2047: 2047 is not a multiple of sp x tp = 2"),
        (
            "global_batch=7",
            "--set: workload.global_batch=7: 7 sequences are not a multiple of dp 2",
        ),
        ("network_bytes_per_s=0", "--set: cluster.network_bytes_per_s: '0' is not a positive finite quantity"),
        ("network_bytes_per_s=nan", "--set: cluster.network_bytes_per_s: 'nan' is not a positive finite quantity"),
        ("network_bytes_per_s=4 GB", "--set: cluster.network_bytes_per_s: unit 'GB' of '4 GB' is not one of"),
        ("usable_memory_bytes=1 TB", "--set: cluster.usable_memory_bytes=1 TB: is more than gpu.memory_bytes"),
        ("oversubscription=0.5", "--set: cluster.oversubscription: '0.5' is not a number >= 1"),
        ("num_gpus=12", "--set: cluster.num_gpus=12: 12 GPUs are not a multiple of the 8 GPUs of a node"),
        ("num_gpus=6", "--set: cluster.num_gpus=6: 6 GPUs are not a multiple of the 4 of a replica (pp 2 x cp 1"),
        ("precision=fp4", "--set: workload.precision: 'fp4' is unknown; expected one of bf16, fp8"),
        ("gpu=b200", "--set: cluster.gpu: 'b200' is unknown; expected one of a100, "),
        ("virtual_stages=3", "--set: pipeline.virtual_stages=3: 6 virtual stages, but only 4"),
        ("top_k=9", "--set: model.top_k=9: 9 is more than num_experts 8"),
        ("num_heads=two", "--set: model.num_heads: 'two' is not a positive whole number"),
        ("cuda_graphs=2", "--set: runtime.cuda_graphs: '2' is neither on nor off"),
        ("dense_intermediate=8", "--set: model.dense_intermediate=8: tiny has no dense feed-forward blocks"),
        ("mesh.ep=3", "--set: mesh.ep=3: ep 3 x etp 1 does not divide dp 2 x cp 1 x sp 2 x tp 1 = 4 GPUs"),
        ("mesh.dp=4", "--set: mesh.dp=4: pp 2 x cp 1 x sp 2 x tp 1 x dp 4 = 16 GPUs, but cluster.num_gpus is 8"),
        ("num_experts=6", "--set: model.num_experts=6: layers ep: ep 4 does not divide 6 experts"),
        ("num_layers=1", "--set: model.num_layers=1: pipeline virtual_stages: 2 virtual stages, but only 1 layers"),
        ("attention=cp-ring", "--set: layers.attention=cp-ring: cp-ring needs context parallelism, the mesh has cp 1"),
        ("runtime=megatron", "--set: runtime: unknown key; did you mean runtime.name"),
        ("runtime.name=vllm", "--set: runtime.name: 'vllm' is unknown; expected one of fsdp-torch, "),
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
