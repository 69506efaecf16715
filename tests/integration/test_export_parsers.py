"""Exported files, parsed by torchtitan and Megatron-Core themselves; skipped where they are not installed."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import msgspec
import pytest

from meshwright.commands.plan import problem_of
from meshwright.costmodel.formulas.parameters import total_parameters
from meshwright.costmodel.model import ModelSpec, MoeFfnSpec
from meshwright.costmodel.runtime import load_runtime
from meshwright.planner.foreign.export import EXPORTERS, export
from meshwright.planner.plan import Plan
from meshwright.planner.plan_conversion import build_plan, configuration_of
from meshwright.planner.search import search

needs_torchtitan = pytest.mark.skipif(find_spec("torchtitan") is None, reason="torchtitan is not installed")
needs_megatron = pytest.mark.skipif(find_spec("megatron") is None, reason="megatron-core is not installed")

TORCHTITAN = [
    ("llama-3.1-8b", 16, "pp=4,schedule=zb-v,sp=1,recompute=none"),
    ("llama-2-7b", 16, "pp=4,schedule=1f1b,sp=1,recompute=full"),
    ("llama-3.2-1b", 8, "pp=1,sp=1,tp=2,zero=3,recompute=none"),
    ("mixtral-8x7b", 32, "pp=1,ep=8,etp=1,sp=1,cp=1,zero=3,dispatch=alltoall,recompute=full"),
    ("qwen3-30b-a3b", 32, "pp=1,ep=8,etp=1,sp=1,cp=1,zero=3,dispatch=alltoall-dedup,recompute=full"),
    ("deepseek-v3", 1024, "pp=16,schedule=1f1b,tp=2,ep=64,etp=1,sp=1,dispatch=alltoall-dedup,recompute=full"),
]
MEGATRON = [
    ("llama-3.1-8b", 16, "pp=4,schedule=1f1b,sp=1,recompute=none"),
    ("llama-3.1-8b", 16, "pp=4,vp=2,schedule=interleaved,sp=1,recompute=core-attention"),
    ("llama-3.1-8b", 16, "cp=4,tp=2,pp=1,attention=cp-ring,sp=1,recompute=full"),
    ("mixtral-8x7b", 32, "pp=2,schedule=1f1b,ep=8,etp=1,sp=1,dispatch=alltoall,recompute=ffn"),
    (
        "qwen3-30b-a3b",
        32,
        "pp=2,vp=4,schedule=interleaved,ep=8,etp=1,sp=1,dispatch=alltoall,recompute=activation",
    ),
    ("deepseek-v3", 1024, "pp=16,schedule=1f1b,tp=2,ep=64,etp=1,sp=1,dispatch=alltoall-dedup,recompute=full"),
]


def _plan(model: str, gpus: int, fixes: str, runtime: str) -> Plan:
    executing = load_runtime(runtime)
    problem = problem_of(model, "h100", gpus, 1024 if gpus > 64 else 64, 4096, "bf16", 1.0, (fixes,), executing)
    result = search(problem, top=0, runtime=executing)
    return build_plan(result.configuration, result.prediction, result.certificate)


def _parsed(plan: Plan, to: str, repository: Path, folder: Path) -> dict[str, object]:
    """What the framework's parser says of the exported file."""
    path = folder / f"exported{EXPORTERS[to].suffix}"
    path.write_text(export(plan, to).text)
    command = [sys.executable, str(repository / "scripts" / "parse_exported.py"), str(path)]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    said: dict[str, object] = json.loads(ran.stdout.splitlines()[-1])
    return said


def _experts(model: ModelSpec) -> list[MoeFfnSpec]:
    return [layer.ffn for layer in model.layers if isinstance(layer.ffn, MoeFfnSpec)]


@needs_torchtitan
@pytest.mark.parametrize(("model", "gpus", "fixes"), TORCHTITAN, ids=[case[0] for case in TORCHTITAN])
def test_torchtitan_parses_the_file_and_has_the_model(
    model: str, gpus: int, fixes: str, repository: Path, tmp_path: Path
) -> None:
    plan = _plan(model, gpus, fixes, "fsdp-torch")
    said = _parsed(plan, "torchtitan", repository, tmp_path)
    trained = msgspec.structs.replace(configuration_of(plan).model, mtp_depth=0)
    corrected = [ffn.num_experts for ffn in _experts(trained) if ffn.score_correction_bias]
    assert said["parameters"] == total_parameters(trained) - sum(corrected)  # biases are buffers there
    assert not corrected or said["expert_biases"] == sum(corrected)
    stages = [stage.num_layers for stage in plan.pipeline.stages]
    assert said["layers_per_stage"] == (stages if plan.mesh.pp > 1 else [])
    assert said["can_be_cut"] or plan.mesh.pp == 1


@needs_megatron
@pytest.mark.parametrize(("model", "gpus", "fixes"), MEGATRON, ids=[f"{case[0]}-{case[2][:9]}" for case in MEGATRON])
def test_megatron_core_accepts_the_arguments(
    model: str, gpus: int, fixes: str, repository: Path, tmp_path: Path
) -> None:
    plan = _plan(model, gpus, fixes, "megatron")
    said = _parsed(plan, "megatron", repository, tmp_path)
    layout = said["layers_per_stage"]
    assert layout in ([], [stage.num_layers for stage in plan.pipeline.stages])
