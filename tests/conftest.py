"""Shared by all tests: where the repository is, golden files, how hypothesis draws."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from meshwright.costmodel.configuration import TrainingConfiguration
    from meshwright.planner.plan import Plan

ROOT = Path(__file__).resolve().parents[1]

# No deadline: the machines that run this are shared. In CI every run draws the same examples.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite tests/golden from what the code gives now")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return ROOT


@pytest.fixture
def check_golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare a text with a file of tests/golden, or rewrite the file under --update-golden."""

    def check(name: str, text: str) -> None:
        path = ROOT / "tests" / "golden" / name
        if request.config.getoption("--update-golden"):
            path.write_text(text, encoding="utf-8")
        assert path.read_text(encoding="utf-8") == text, f"{path} differs; if that is meant: pytest --update-golden"

    return check


@pytest.fixture
def tiny_config() -> dict[str, object]:
    """A config.json of a model of four MoE layers that is planned in no time."""
    return {
        "model_type": "mixtral",
        "hidden_size": 1024,
        "intermediate_size": 2048,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "num_hidden_layers": 4,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "vocab_size": 4096,
    }


@pytest.fixture
def tiny_configuration(tiny_config: dict[str, object]) -> TrainingConfiguration:
    """The tiny model on 8 H100: pp 2, dp 2, sp 2, ep 4; the last layer is recomputed in full."""
    from meshwright.costmodel.configuration import Pipeline, TrainingConfiguration
    from meshwright.costmodel.data_parallel import Sharding
    from meshwright.costmodel.huggingface import read_config
    from meshwright.costmodel.runtime import load_runtime
    from meshwright.costmodel.strategy import LayerStrategy, Mesh, Recompute
    from meshwright.costmodel.workload import Workload
    from meshwright.hardware_profiles import load_cluster

    keep = LayerStrategy(sp=2, ep=4)
    recompute = LayerStrategy(sp=2, ep=4, recompute=Recompute.FULL)
    return TrainingConfiguration(
        model=read_config(tiny_config, "config.json", "tiny"),
        cluster=load_cluster("h100", num_gpus=8),
        workload=Workload(global_batch=16, seq_len=2048),
        runtime=load_runtime("meshwright"),
        mesh=Mesh(pp=2, dp=2, sp=2, ep=4),
        sharding=Sharding(),
        pipeline=Pipeline(),
        stages=((keep, keep), (keep, recompute)),
    )


@pytest.fixture
def tiny_plan(tiny_configuration: TrainingConfiguration) -> Plan:
    """The plan of `tiny_configuration`, with a runner-up and a certificate of no search."""
    from meshwright.costmodel.simulate import ScheduleKind
    from meshwright.costmodel.step import predict
    from meshwright.costmodel.strategy import Mesh
    from meshwright.planner.plan import Alternative, SearchRecord
    from meshwright.planner.plan_conversion import build_plan

    prediction = predict(tiny_configuration)
    alternative = Alternative(
        mesh=Mesh(dp=8),
        schedule=ScheduleKind.ONE_F_ONE_B,
        virtual_stages=1,
        micro_batch_size=2,
        zero="1",
        strategies=("4 x dp / ffn tp1 / none",),
        step_time_s=1.25 * prediction.step_time_s,
        peak_memory_bytes=2.0**30,
        reason="exposed network +3.0 ms",
    )
    certificate = SearchRecord(
        candidates=40,
        rejected=10,
        pruned=26,
        solved=4,
        objective_s=prediction.step_time_s,
        lower_bound_s=0.99 * prediction.step_time_s,
        gap=0.01,
        order_gap=0.0,
        solve_time_s=0.5,
        space="a made-up space",
        solvers=("none",),
    )
    return build_plan(tiny_configuration, prediction, certificate, (alternative,))
