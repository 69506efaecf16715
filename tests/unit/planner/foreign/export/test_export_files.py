"""The files themselves: a script that bash runs as it is read here, a flavor in Python."""

from __future__ import annotations

import os
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from meshwright.costmodel.model import ModelSpec, with_num_layers
from meshwright.costmodel.presets import load_model, preset_names
from meshwright.planner.foreign import FRAMEWORKS, Source
from meshwright.planner.foreign.export import export
from meshwright.planner.foreign.megatron.model import model_of
from meshwright.planner.foreign.megatron.model_settings import model_settings, pattern_text
from meshwright.planner.foreign.megatron.run_settings import layout_text
from meshwright.planner.foreign.stated import settings_from
from meshwright.planner.foreign.torchtitan.model_args import find_flavor, registration
from meshwright.planner.plan import Plan

Planned = Callable[..., Plan]
QWEN = "pp=2,vp=4,schedule=interleaved,ep=8,etp=1,sp=1,cp=1,dispatch=alltoall-dedup,recompute=activation"
REQUIRED = ("MEGATRON_PATH", "DATA_PATH", "TOKENIZER_MODEL", "CHECKPOINT_PATH")
NUMBERS = {
    "TRAIN_ITERS": "10",
    "LR": "1e-4",
    "NORM_EPSILON": "1e-6",
    "ROTARY_BASE": "1e6",
    "MOE_AUX_LOSS_COEFF": "1e-3",
}


def _run(script: Path, tmp_path: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a script with a torchrun that prints its arguments, one a line."""
    launcher = tmp_path / "bin" / "torchrun"
    launcher.parent.mkdir()
    launcher.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    launcher.chmod(0o755)
    environment = {"PATH": f"{launcher.parent}:{os.environ['PATH']}", **variables}
    command = [str(shutil.which("bash")), str(script)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_bash_passes_the_arguments_that_are_read_here(planned: Planned, tmp_path: Path) -> None:
    text = export(planned("qwen3-30b-a3b", 32, 64, QWEN, precision="fp8"), "megatron").text
    script = tmp_path / "train.sh"
    script.write_text(text)
    ran = _run(script, tmp_path, **dict.fromkeys(REQUIRED, "/data/a b"), **NUMBERS)
    assert ran.returncode == 0, ran.stderr
    words = ran.stdout.splitlines()
    start = words.index("/data/a b/pretrain_gpt.py")
    assert words[:4] == ["--nnodes", "4", "--nproc-per-node", "8"]
    arguments = " ".join(word if word.startswith("--") else f"'{word}'" for word in words[start + 1 :])
    passed = FRAMEWORKS["megatron"].read(Source(where="bash", text=arguments))
    read = FRAMEWORKS["megatron"].read(Source(where="file", text=text, suffix=".sh"))
    changes = {"tokenizer_model": passed.settings.values["tokenizer_model"]}
    assert passed.settings.values == read.settings.values | changes
    assert passed.unknown == ()
    assert read.num_gpus == 32


def test_a_script_stops_and_names_the_variable_that_is_missing(planned: Planned, tmp_path: Path) -> None:
    script = tmp_path / "train.sh"
    script.write_text(export(planned("qwen3-30b-a3b", 32, 64, QWEN, precision="fp8"), "megatron").text)
    ran = _run(script, tmp_path, **dict.fromkeys(REQUIRED, "/data"))
    assert ran.returncode != 0
    assert "TRAIN_ITERS: number of steps" in ran.stderr
    assert ran.stdout == ""


def test_fsdp_runs_without_the_order_of_kernels_that_it_forbids(planned: Planned) -> None:
    text = export(planned("llama-3.1-8b", 8, 16, "zero=3,pp=1,sp=1,recompute=full"), "megatron").text
    assert "export CUDA_DEVICE_MAX_CONNECTIONS=1\n" not in text
    assert "--ckpt-format fsdp_dtensor" in text
    assert "--data-parallel-sharding-strategy optim_grads_params" in text


def test_stages_are_listed_by_module(planned: Planned) -> None:
    plan = planned("llama-3.1-8b", 16, 64, "pp=4,vp=2,schedule=interleaved,sp=1,recompute=full", "fsdp-torch")
    text = export(plan, "torchtitan").text
    parts = tomllib.loads(text)["parallelism"]["module_fqns_per_model_part"]
    assert [sum(name.startswith("layers.") for name in part) for part in parts] == [
        stage.num_layers for stage in plan.pipeline.stages
    ]
    assert (parts[0][0], parts[-1][-2:]) == ("tok_embeddings", ["norm", "output"])


def test_a_model_without_a_flavor_comes_with_the_lines_that_register_one(planned: Planned) -> None:
    fixes = "pp=1,ep=8,etp=1,sp=1,cp=1,zero=3,dispatch=alltoall,recompute=full"
    text = export(planned("mixtral-8x7b", 32, 64, fixes, "fsdp-torch"), "torchtitan").text
    assert '# | qwen3_args["mixtral-8x7b"] = Qwen3ModelArgs(' in text
    assert tomllib.loads(text)["experimental"] == {"custom_import": "meshwright_flavor"}
    code = "\n".join(line.removeprefix("# | ") for line in text.splitlines() if line.startswith("# | "))
    compile(code, "meshwright_flavor.py", "exec")


@pytest.mark.parametrize(
    ("model", "name", "flavor", "own"),
    [
        ("llama-3.1-70b", "llama3", "70B", False),
        ("deepseek-v3", "deepseek_v3", "671B", False),
        ("qwen3-30b-a3b", "qwen3", "30B-A3B", False),
        ("llama-2-7b", "llama3", "llama-2-7b", True),
        ("llama-3.2-1b", "qwen3", "llama-3.2-1b", True),
        ("mixtral-8x22b", "qwen3", "mixtral-8x22b", True),
        ("kimi-k2", "deepseek_v3", "kimi-k2", True),
    ],
)
def test_families_have_room_for_models(model: str, name: str, flavor: str, own: bool) -> None:
    found = find_flavor(load_model(model))
    assert found is not None
    assert (found.name, found.flavor, found.own) == (name, flavor, own)
    if own:
        assert registration(load_model(model), found)[-1] == ")"


def test_what_no_family_has_room_for() -> None:
    assert find_flavor(load_model("gpt3-175b")) is None  # biases, learned positions
    assert find_flavor(load_model("hunyuan-large")) is None  # shared keys and values
    assert find_flavor(load_model("qwen1.5-moe-a2.7b")) is None  # a gate on shared experts


NOT_SAID = (
    *("gpt-oss-120b", "gpt-oss-20b"),  # biases of routers
    *("grok-1", "grok1-314b"),  # four norms a layer
    "hunyuan-large",  # shared keys and values
    *("llama-4-maverick", "llama-4-scout"),  # chunks
    "phi-3.5-moe",  # a bias of the head
)
"""Presets with parts that Megatron-LM's arguments do not describe."""


@pytest.mark.parametrize("name", [name for name in preset_names() if name not in NOT_SAID])
def test_presets_are_read_back_from_their_arguments(name: str) -> None:
    model = load_model(name)
    values = model_settings(model, 4096, 1) | {"hidden_size": model.hidden, "mtp_num_layers": model.mtp_depth or None}
    read = model_of(settings_from("megatron", "here", values))
    fields = [field for field in ModelSpec.__struct_fields__ if field not in ("name", "source")]
    assert {field: getattr(read, field) for field in fields} == {field: getattr(model, field) for field in fields}


def test_alternating_layers_are_read_back() -> None:
    mixtral, llama = load_model("mixtral-8x7b"), load_model("llama-2-7b")
    dense = msgspec.structs.replace(mixtral.layers[0], ffn=llama.layers[0].ffn)
    windowed = msgspec.structs.replace(
        mixtral.layers[0], attention=msgspec.structs.replace(mixtral.layers[0].attention, window=512)
    )
    model = with_num_layers(mixtral, 12)
    for layers in (
        (mixtral.layers[0], dense) * 6,
        (dense, mixtral.layers[0]) * 6,
        (dense, *(windowed, mixtral.layers[0]) * 5, mixtral.layers[0]),
    ):
        mixed = msgspec.structs.replace(model, layers=layers)
        values = model_settings(mixed, 4096, 1) | {"hidden_size": model.hidden}
        assert model_of(settings_from("megatron", "here", values)).layers == layers


def test_patterns_and_layouts() -> None:
    assert pattern_text([1] * 4) == "[1]*4"
    assert pattern_text([0, 1, 1, 0, 1, 1]) == "[0,1,1]*2"
    assert layout_text((4, 5, 5, 4), 0) == "Etttt|(ttttt|)*2ttttL"
    assert layout_text((0, 1), 2) == "E|tmmL"
