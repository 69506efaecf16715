"""Which layers of DualPipeV's slots meet, and where they do not at all."""

from __future__ import annotations

import msgspec
import pytest

from meshwright.costmodel.beside import may_run_beside, met, runs_beside
from meshwright.costmodel.configuration import Pipeline, TrainingConfiguration
from meshwright.costmodel.data_parallel import Sharding
from meshwright.costmodel.model import AttentionSpec, DenseFfnSpec, LayerSpec, ModelSpec, MoeFfnSpec
from meshwright.costmodel.order.order_book import ModelEnd
from meshwright.costmodel.runtime import load_runtime
from meshwright.costmodel.simulate import ScheduleKind
from meshwright.costmodel.stage_cost import cost_context, stage_costs
from meshwright.costmodel.strategy import LayerStrategy, Mesh, Recompute, ZeroStage
from meshwright.costmodel.workload import Workload
from meshwright.hardware_profiles import load_cluster

replace = msgspec.structs.replace

ATTENTION = AttentionSpec(num_heads=16, num_kv_heads=8, head_dim=128, value_head_dim=128)
DENSE = LayerSpec(attention=ATTENTION, ffn=DenseFfnSpec(intermediate=8192))
MOE = LayerSpec(attention=ATTENTION, ffn=MoeFfnSpec(num_experts=16, top_k=2, intermediate=1024))
KEEPS = LayerStrategy(ep=8)
RECOMPUTES = replace(KEEPS, recompute=Recompute.SELECTIVE)


def _configuration(layers: tuple[LayerSpec, ...], strategies: tuple[LayerStrategy, ...]) -> TrainingConfiguration:
    share = len(layers) // 4
    return TrainingConfiguration(
        model=ModelSpec(name="made-up", hidden=2048, vocab=32_000, layers=layers),
        cluster=load_cluster("h100", num_gpus=16),
        workload=Workload(global_batch=64, seq_len=4096),
        runtime=load_runtime("meshwright"),
        mesh=Mesh(pp=2, dp=8, ep=8),
        sharding=Sharding(zero=ZeroStage.OPTIMIZER),
        pipeline=Pipeline(schedule=ScheduleKind.DUALPIPE_V, virtual_stages=2, micro_batch=1),
        stages=tuple(strategies[start : start + share] for start in range(0, len(layers), share)),
    )


def test_a_forward_meets_layers_of_its_kind_in_the_order_of_the_backward() -> None:
    one, other = (MOE, KEEPS), (MOE, RECOMPUTES)
    assert met((one, one), (one, one)) == (one, one)
    assert met((one, one), (other, other)) == ()
    assert met((one, (DENSE, KEEPS)), (one, one)) == (one,)
    # The forward comes to `other` last, the backward first: only one kind can meet its own.
    assert len(met((one, one, other), (one, one, other))) == 2


def test_a_stage_saves_what_its_layers_that_meet_save() -> None:
    layers = (DENSE, MOE, MOE, MOE, MOE, MOE, MOE, MOE)
    configuration = _configuration(layers, (KEEPS,) * 8)
    saved_s = cost_context(configuration).layer(MOE, KEEPS).compute.overlap_saving_s
    assert saved_s > 0.0
    # Stages 0 and 3 share a device: of stage 3's two layers one meets none, as stage 0 has but one of its kind.
    assert [cost.overlap_saving_s for cost in stage_costs(configuration)] == pytest.approx(
        [saved_s, 2 * saved_s, 2 * saved_s, saved_s]
    )


def test_embedding_and_head_meet_nothing() -> None:
    context = cost_context(_configuration((MOE,) * 4, (KEEPS,) * 4))
    assert context.embedding(KEEPS).compute.overlap_saving_s == context.head(KEEPS).compute.overlap_saving_s == 0.0
    assert context.timelines(ModelEnd.HEAD, KEEPS).joint is None


def test_passes_run_one_behind_the_other_where_state_or_copies_leave_no_room() -> None:
    configuration = _configuration((MOE,) * 4, (KEEPS,) * 4)
    assert runs_beside(configuration)
    sharded = replace(configuration, sharding=Sharding(zero=ZeroStage.GRADIENTS))
    offloading = _configuration((MOE,) * 4, (KEEPS, KEEPS, KEEPS, replace(KEEPS, offload=True)))
    for one in (sharded, offloading):
        assert not runs_beside(one)
        assert {cost.overlap_saving_s for cost in stage_costs(one)} == {0.0}
    assert not may_run_beside(Sharding(zero=ZeroStage.PARAMETERS), offloads=False)
    assert not runs_beside(replace(configuration, pipeline=replace(configuration.pipeline, schedule=ScheduleKind.ZB_V)))
