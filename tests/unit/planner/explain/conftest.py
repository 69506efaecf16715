"""Configurations of every kind that an explanation has to add up for."""

from __future__ import annotations

import msgspec
import pytest

from meshwright.costmodel.configuration import Pipeline, TrainingConfiguration
from meshwright.costmodel.data_parallel import Sharding
from meshwright.costmodel.huggingface import read_config
from meshwright.costmodel.presets import load_model
from meshwright.costmodel.runtime import load_runtime
from meshwright.costmodel.simulate import ScheduleKind
from meshwright.costmodel.strategy import Dispatch, LayerStrategy, Mesh, Recompute, ZeroStage
from meshwright.costmodel.workload import Workload
from meshwright.hardware_profiles import load_cluster
from meshwright.planner.plan import Plan
from meshwright.planner.plan_conversion import build_plan
from meshwright.planner.search import search
from meshwright.planner.space import Problem

KINDS = ("1f1b", "zb-v", "dualpipe-v", "zero-3", "hsdp", "offload", "megatron", "no replicas")


@pytest.fixture(params=KINDS)
def any_configuration(
    request: pytest.FixtureRequest, tiny_configuration: TrainingConfiguration
) -> TrainingConfiguration:
    """The tiny model under each schedule, sharding and runtime that terms of its own."""
    return variant(tiny_configuration, request.param)


def variant(tiny: TrainingConfiguration, kind: str) -> TrainingConfiguration:
    """One of `KINDS`."""
    replace = msgspec.structs.replace
    keep = tiny.stages[0][0]
    if kind in ("zb-v", "dualpipe-v"):
        pipeline = Pipeline(schedule=ScheduleKind(kind), virtual_stages=2)
        return replace(tiny, pipeline=pipeline, stages=((keep,), (keep,), (tiny.stages[1][1],), (keep,)))
    if kind in ("zero-3", "hsdp"):
        degree = 4 if kind == "hsdp" else 0
        stages = (tuple(strategy for stage in tiny.stages for strategy in stage),)
        sharding = Sharding(zero=ZeroStage.PARAMETERS, shard_degree=degree)
        return replace(tiny, mesh=Mesh(dp=4, sp=2, ep=4), sharding=sharding, stages=stages)
    if kind == "offload":
        away = replace(keep, offload=True)
        return replace(tiny, sharding=Sharding(offload_optimizer=True), stages=((away, keep), (away, away)))
    if kind == "megatron":
        return replace(tiny, runtime=load_runtime("megatron"))
    if kind == "no replicas":
        one = replace(keep, ep=1)
        cluster = tiny.cluster.with_gpus(4)
        return replace(tiny, cluster=cluster, mesh=Mesh(pp=2, sp=2), stages=((one, one), (one, one)))
    return tiny


@pytest.fixture(scope="session")
def large_configuration() -> TrainingConfiguration:
    """The 352B model on 1,440 H800: pp 6 x dp 30 x sp 8, ep 16, interleaved with 10 layers a device."""
    strategy = LayerStrategy(sp=8, ep=16, dispatch=Dispatch.ALL_TO_ALL_DEDUP, recompute=Recompute.ACTIVATION)
    return TrainingConfiguration(
        model=load_model("internal-352b"),
        cluster=load_cluster("h800", num_gpus=1440),
        workload=Workload(global_batch=720, seq_len=8192),
        runtime=load_runtime("meshwright"),
        mesh=Mesh(pp=6, dp=30, sp=8, ep=16),
        sharding=Sharding(),
        pipeline=Pipeline(schedule=ScheduleKind.INTERLEAVED, virtual_stages=10, micro_batch=2),
        stages=((strategy,),) * 60,
    )


TINY = {
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


@pytest.fixture(scope="session")
def searched_plan() -> Plan:
    """The best plan of a model of four MoE layers on 8 H100."""
    problem = Problem(
        model=read_config(TINY, "config.json", "tiny"),
        cluster=load_cluster("h100", num_gpus=8),
        workload=Workload(global_batch=16, seq_len=2048),
    )
    result = search(problem, top=0)
    return build_plan(result.configuration, result.prediction, result.certificate)
