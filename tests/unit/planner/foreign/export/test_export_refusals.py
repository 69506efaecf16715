"""Plans that a framework cannot run are refused, with the `plan` command whose plan it can run."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from meshwright.cli import main
from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.errors import InfeasibleError, InputError
from meshwright.costmodel.model import LayerSpec
from meshwright.costmodel.order.order_book import OrderBook
from meshwright.costmodel.presets import load_model
from meshwright.costmodel.strategy import Dispatch, Mesh
from meshwright.hardware_profiles import load_cluster
from meshwright.planner.foreign.export import export
from meshwright.planner.foreign.export.plan_command import plan_command
from meshwright.planner.plan import Plan
from meshwright.planner.plan_conversion import configuration_of
from meshwright.planner.serialise import read_plan, write_plan

Planned = Callable[..., Plan]
replace = msgspec.structs.replace

LLAMA, MIXTRAL = "llama-3.1-8b", "mixtral-8x7b"
CASES = {
    "megatron: zero-bubble": (
        "megatron",
        (LLAMA, 16, 64, "pp=4,schedule=zb-v,sp=1"),
        "its pipeline schedule is zb-v; Megatron-LM has 1f1b and interleaved",
    ),
    "megatron: DualPipeV with experts": (
        "megatron",
        (MIXTRAL, 32, 64, "pp=4,schedule=dualpipe-v,ep=8,etp=1,dispatch=alltoall"),
        "its pipeline schedule is dualpipe-v",
    ),
    "megatron: Ulysses beyond the key-value heads": (
        "megatron",
        ("qwen3-30b-a3b", 8, 16, "sp=8,tp=1,pp=1,ep=8,etp=1,recompute=full"),
        "with --cp-comm-type a2a, tp x the ranks that exchange heads divides the query groups (Megatron-LM)",
    ),
    "megatron: FFN weights split over a Ulysses group": (
        "megatron",
        (LLAMA, 8, 16, "sp=4,tp=1,pp=1,ffn=tp,recompute=full"),
        "FFN weights split over 4 in 32 layers; Megatron-LM runs all layers with 1",
    ),
    "torchtitan: Ulysses": (
        "torchtitan",
        (LLAMA, 8, 16, "sp=4,tp=1,pp=1,recompute=full"),
        "it exchanges heads among 4 ranks (Ulysses)",
    ),
    "torchtitan: tokens gathered": (
        "torchtitan",
        (MIXTRAL, 32, 64, "pp=1,ep=8,etp=1,sp=1,dispatch=allgather"),
        "its tokens reach the experts by all-gather; torchtitan has all-to-all only",
    ),
    "torchtitan: slices of experts": (
        "torchtitan",
        (MIXTRAL, 32, 64, "pp=1,tp=1,ep=4,etp=2,sp=1,dispatch=alltoall"),
        "etp is 1 or tp (torchtitan); the plan has etp 2, tp 1",
    ),
    "torchtitan: a pipeline of a family without": (
        "torchtitan",
        (MIXTRAL, 32, 64, "pp=4,schedule=1f1b,ep=8,etp=1,sp=1,dispatch=alltoall"),
        "qwen3 has no pipeline (torchtitan); the plan has pp 4",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_refusal_names_the_reason_and_a_plan_that_exports(name: str, planned: Planned, tmp_path: Path) -> None:
    to, (model, gpus, batch, fixes), reason = CASES[name]
    with pytest.raises(InfeasibleError) as refused:
        export(planned(model, gpus, batch, fixes), to)
    first, *reasons, last = str(refused.value).splitlines()
    assert first.endswith("cannot run this plan")
    assert any(line.startswith(f"  {reason}") for line in reasons)
    words = shlex.split(last.removeprefix("this finds one that it can run: "))
    assert words[:2] == ["meshwright", "plan"]
    output = tmp_path / "plan.json"
    assert words[-1] == output.name
    assert main([*words[1:-1], str(output), "--top", "0"]) == 0
    exported = export(read_plan(output), to)
    assert exported.peak_memory_bytes <= exported.memory_limit_bytes


def test_what_differs_between_layers_is_refused(
    planned: Planned, plan_of: Callable[[TrainingConfiguration], Plan]
) -> None:
    plan = planned(MIXTRAL, 32, 64, "pp=2,schedule=1f1b,ep=8,etp=1,sp=1,dispatch=alltoall,recompute=ffn")
    configuration = configuration_of(plan)
    first, *others = configuration.stages[0]
    mixed = (replace(first, dispatch=Dispatch.ALL_GATHER), *others)
    changed = replace(configuration, stages=(mixed, *configuration.stages[1:]))
    with pytest.raises(InfeasibleError, match="tokens dispatched by alltoall in 31 layers; Megatron-LM runs all"):
        export(plan_of(changed), "megatron")


def test_a_model_that_arguments_cannot_describe_is_refused(
    planned: Planned, plan_of: Callable[[TrainingConfiguration], Plan]
) -> None:
    plan = planned(LLAMA, 8, 16, "tp=4,pp=1,sp=1,recompute=core-attention")
    configuration = configuration_of(plan)
    attention = configuration.model.layers[0].attention
    chunked = LayerSpec(attention=replace(attention, chunk=1024), ffn=configuration.model.layers[0].ffn)
    model = replace(configuration.model, layers=(chunked, *configuration.model.layers[1:]))
    with pytest.raises(InfeasibleError, match=r"attention\.chunk is 1024 in 1 layer; Megatron-LM would have 0"):
        export(plan_of(replace(configuration, model=model)), "megatron")
    with pytest.raises(InfeasibleError, match=r"no model of torchtitan has the layers of llama-3\.1-8b"):
        export(plan_of(replace(configuration, model=model)), "torchtitan")


def test_what_does_not_fit_there_is_refused(planned: Planned, plan_of: Callable[[TrainingConfiguration], Plan]) -> None:
    """As a model of 70 B on one node, whose state alone is too large."""
    configuration = configuration_of(planned(LLAMA, 8, 16, "zero=3,pp=1,sp=1,tp=1,recompute=full", "fsdp-torch"))
    stages = ((configuration.stages[0][0],) * 80,)
    too_large = replace(configuration, model=load_model("llama-3.1-70b"), stages=stages, orders=OrderBook())
    with pytest.raises(InfeasibleError, match=r"it does not fit there: needs .* GiB at least"):
        export(plan_of(too_large), "torchtitan")


def test_an_unknown_framework_is_bad_input(planned: Planned) -> None:
    with pytest.raises(InputError, match="--to: deepspeed: is unknown; expected megatron or torchtitan"):
        export(planned(LLAMA, 8, 16, "tp=4,pp=1,sp=1,recompute=core-attention"), "deepspeed")


def test_the_command_names_what_is_no_preset_by_its_source(planned: Planned) -> None:
    configuration = configuration_of(planned(LLAMA, 8, 16, "tp=4,pp=1,sp=1,recompute=core-attention"))
    cluster = replace(load_cluster("h100", num_gpus=8), name="ours", oversubscription=2.0)
    model = replace(configuration.model, name="own", source="models/own config.json")
    own = replace(configuration, cluster=cluster, model=model, mesh=Mesh(dp=2, tp=4))
    words = shlex.split(plan_command(own, runtime="megatron", fixes={"sp": "1"}))
    assert words[2:5] == ["models/own config.json", "--cluster", "ours.yaml"]


def test_json_is_refused_the_same_way(planned: Planned, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plan.json"
    write_plan(planned(LLAMA, 16, 64, "pp=4,schedule=zb-v,sp=1"), path)
    assert json.loads(path.read_text())["pipeline"]["schedule"] == "zb-v"
    assert main(["export", str(path), "--to", "megatron", "--json"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("meshwright: Megatron-LM cannot run this plan\n  its pipeline schedule is zb-v")
