"""A slower link is never faster: communication that leaves the node, with less bandwidth, lengthens the step."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.costmodel.configuration import Pipeline, TrainingConfiguration
from meshwright.costmodel.data_parallel import Sharding
from meshwright.costmodel.formulas.interference import between_nodes
from meshwright.costmodel.hardware import Interference
from meshwright.costmodel.presets import load_model
from meshwright.costmodel.runtime import load_runtime
from meshwright.costmodel.simulate import ScheduleKind
from meshwright.costmodel.step import predict
from meshwright.costmodel.strategy import LayerStrategy, Mesh, ZeroStage
from meshwright.costmodel.workload import Workload
from meshwright.hardware_profiles import load_cluster

factors = st.floats(1.0, 4.0)


@given(compute=st.floats(1.0, 3.0), stretch=factors, network=st.floats(1.0, 1.3), share=st.floats(0.0, 2.0))
def test_a_byte_between_nodes_costs_compute_what_it_costs_inside_at_least(
    compute: float, stretch: float, network: float, share: float
) -> None:
    between, longer = between_nodes((compute, stretch), (network, 1.0), share)
    lost = (1.0 - 1.0 / between) * longer
    assert lost >= (1.0 - 1.0 / compute) * stretch * share - 1e-12
    assert longer >= max(1.0, stretch * share)
    assert 1.0 / between + 1.0 / compute > 1.0  # compute goes on beside both


def _configuration(mesh: Mesh, zero: ZeroStage, interference: Interference) -> TrainingConfiguration:
    cluster = load_cluster("h100", num_gpus=8)
    profile = msgspec.structs.replace(cluster.profile, interference=interference)
    model = load_model("llama-3.2-1b")
    strategy = LayerStrategy(tp=mesh.tp, sp=mesh.sp, ffn_tp=mesh.tp)
    return TrainingConfiguration(
        model=model,
        cluster=msgspec.structs.replace(cluster, profile=profile),
        workload=Workload(global_batch=16, seq_len=8192),
        runtime=load_runtime("meshwright"),
        mesh=mesh,
        sharding=Sharding(zero=zero),
        pipeline=Pipeline(schedule=ScheduleKind.ONE_F_ONE_B, virtual_stages=1, micro_batch=1),
        stages=((strategy,) * model.num_layers,),
    )


@pytest.mark.parametrize(
    ("mesh", "zero"),
    [
        (Mesh(dp=8), ZeroStage.OPTIMIZER),
        (Mesh(dp=8), ZeroStage.GRADIENTS),
        (Mesh(dp=8), ZeroStage.PARAMETERS),
        (Mesh(tp=8), ZeroStage.OPTIMIZER),
        (Mesh(sp=8), ZeroStage.OPTIMIZER),
        (Mesh(dp=2, tp=4), ZeroStage.PARAMETERS),
    ],
)
@settings(max_examples=15)
@given(compute=st.floats(1.0, 1.8), stretch=factors)
def test_moving_an_axis_from_nvlink_to_the_network_is_never_faster(
    mesh: Mesh, zero: ZeroStage, compute: float, stretch: float
) -> None:
    interference = Interference(collective_sms=24, compute_slowdown=compute, communication_slowdown=stretch)
    whole = _configuration(mesh, zero, interference)
    steps_s = []
    for gpus_per_node in (8, 4, 2):
        cluster = msgspec.structs.replace(whole.cluster, gpus_per_node=gpus_per_node)
        steps_s.append(predict(msgspec.structs.replace(whole, cluster=cluster)).step_time_s)
    assert all(faster <= slower * (1 + 1e-6) for faster, slower in pairwise(steps_s)), steps_s
