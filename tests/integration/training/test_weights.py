"""Weights of Hugging Face go through a run of any layout and come back to the bit."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from meshwright.costmodel.workload import Workload
from meshwright.executor.train.balancing import Balancing
from meshwright.executor.train.entry import run as run_here
from meshwright.executor.train.request import DeviceChoice, Format, RunRequest
from meshwright.planner.plan import Plan
from meshwright.planner.serialise import write_plan

Run = Callable[..., subprocess.CompletedProcess[str]]
MakePlan = Callable[[str, int, str], Plan]


def save_model(config: Path, folder: Path, dtype: torch.dtype) -> None:
    """A random model of transformers of this config.json."""
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = json.loads(config.read_text())
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**fields), dtype=dtype)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.copy_(torch.randn_like(tensor))
        for parameter in model.parameters():
            parameter.data = parameter.data.to(dtype)  # routers, too, as they are published
    model.save_pretrained(folder)


def unequal(before: Path, after: Path) -> list[str]:
    """Tensors that are not the same to the bit."""
    was, is_now = _load(before), _load(after)
    assert was.keys() == is_now.keys()
    return [
        name for name in was if was[name].dtype is not is_now[name].dtype or not torch.equal(was[name], is_now[name])
    ]


def _load(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


@pytest.mark.parametrize("format", [Format.FLOAT32, Format.BFLOAT16])
@pytest.mark.parametrize("model", ["moe", "dense", "groups of experts"])
def test_on_one_rank(make_plan: MakePlan, tmp_path: Path, model: str, format: Format) -> None:
    write_plan(make_plan(model, 1, "mbs=2"), tmp_path / "plan.json")
    save_model(tmp_path / f"{model.replace(' ', '-')}.json", tmp_path / "in", getattr(torch, format.value))
    request = RunRequest(
        plan=tmp_path / "plan.json",
        output=tmp_path / "run",
        num_steps=0,
        device=DeviceChoice.CPU,
        format=format,
        load=tmp_path / "in",
        export=tmp_path / "out",
    )
    assert run_here(request, (), lambda _: None) is None
    assert unequal(tmp_path / "in", tmp_path / "out") == []


def test_biases_that_have_followed_loads_are_written(make_plan: MakePlan, tmp_path: Path) -> None:
    write_plan(make_plan("groups of experts", 1, "mbs=2"), tmp_path / "plan.json")
    request = RunRequest(
        plan=tmp_path / "plan.json",
        output=tmp_path / "run",
        num_steps=1,
        device=DeviceChoice.CPU,
        export=tmp_path / "out",
        balancing=Balancing(bias_speed=0.25),
    )
    run_here(request, (), lambda _: None)
    biases = {name: tensor for name, tensor in _load(tmp_path / "out").items() if name.endswith("correction_bias")}
    assert len(biases) == 3
    for bias in biases.values():
        assert {-0.25, 0.25} <= set(bias.tolist()) <= {-0.25, 0.0, 0.25}


@pytest.mark.parametrize(
    ("model", "fixes"),
    [
        ("moe", "tp=2,ep=1,mbs=2"),
        ("groups of experts", "dp=2,ep=2,mbs=2,dispatch=alltoall"),
        ("dense", "pp=2,mbs=1,schedule=1f1b"),
        ("moe", "dp=2,ep=1,mbs=2,zero=3"),
    ],
)
def test_on_two_ranks(make_plan: MakePlan, run: Run, tmp_path: Path, model: str, fixes: str) -> None:
    write_plan(make_plan(model, 2, fixes), tmp_path / "plan.json")
    save_model(tmp_path / f"{model.replace(' ', '-')}.json", tmp_path / "in", torch.float32)
    done = run("plan.json", "--steps", "0", "--device", "cpu", "--load", "in", "--export", "out")
    assert done.returncode == 0, done.stderr
    assert unequal(tmp_path / "in", tmp_path / "out") == []


def test_training_changes_what_is_exported_and_transformers_agrees_on_the_loss(
    make_plan: MakePlan, tmp_path: Path
) -> None:
    """The first step's loss is that of transformers for the weights that were loaded: numerics of its config.json."""
    from transformers import AutoModelForCausalLM

    plan = make_plan("moe", 1, "mbs=8")
    write_plan(plan, tmp_path / "plan.json")
    config = tmp_path / "moe.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"rms_norm_eps": 0.1, "norm_topk_prob": False}))
    save_model(config, tmp_path / "in", torch.float32)
    request = RunRequest(
        plan=tmp_path / "plan.json",
        output=tmp_path / "run",
        num_steps=1,
        device=DeviceChoice.CPU,
        load=tmp_path / "in",
        export=tmp_path / "out",
    )
    summary = run_here(request, (), lambda _: None)
    assert summary is not None
    tokens = _tokens(plan)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "in", attn_implementation="eager")
    with torch.no_grad():
        logits = model(tokens[:, :-1]).logits
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    assert summary.first_loss == pytest.approx(float(expected), rel=1e-5)
    assert summary.numerics.norm_epsilon == 0.1
    assert unequal(tmp_path / "in", tmp_path / "out") != []


def _tokens(plan: Plan) -> Tensor:
    from meshwright.executor.data.open_data import open_data

    workload: Workload = plan.workload
    source = open_data(
        "markov", vocabulary=plan.model.vocab, seq_len=workload.seq_len, global_batch=workload.global_batch, seed=0
    )
    return source.batch(0, range(workload.global_batch))
