from __future__ import annotations

import msgspec
import pytest

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.errors import InputError
from meshwright.costmodel.model import AttentionSpec, DenseFfnSpec, LayerSpec
from meshwright.planner.changes import CHANGES
from meshwright.planner.draft import changed_configuration, draft_of
from meshwright.planner.held.legality import check_legal
from meshwright.planner.plan import Plan
from meshwright.planner.what_if import baseline_of, changed

ATTENTION = AttentionSpec(num_heads=8, num_kv_heads=4, head_dim=128, value_head_dim=128)
DENSE = LayerSpec(attention=ATTENTION, ffn=DenseFfnSpec(intermediate=4096))


def test_a_plan_is_legal(tiny_configuration: TrainingConfiguration) -> None:
    check_legal(tiny_configuration)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mesh.sp": "4", "model.num_heads": "6", "model.num_kv_heads": "3"}, "6 heads are not a multiple of tp x sp"),
        ({"model.num_heads": "6", "model.num_kv_heads": "3"}, "can neither split nor copy 3 key-value heads evenly"),
        ({"model.num_experts": "10"}, "ep 4 does not divide 10 experts"),
        ({"mesh.ep": "2", "mesh.etp": "2", "model.expert_intermediate": "1023"}, "etp 2 does not divide 1023 columns"),
        ({"model.shared_intermediate": "1023", "layers.ffn_tp": "2"}, "ffn_tp 2 does not divide 1023 columns"),
        ({"workload.seq_len": "2047"}, "2047 is not a multiple of sp x tp = 2"),
        ({"mesh.cp": "2", "workload.seq_len": "2050"}, "2050 is not a multiple of 2 x cp x sp x tp = 8"),
        ({"model.learned_positions": "1024"}, "2048, but the model has 1024 learned positions"),
        ({"pipeline.schedule": "interleaved"}, "at least 2 virtual stages"),
        ({"sharding.offload_optimizer": "on", "cluster.host_memory_bytes": "1 GB"}, "a node's host has 954 MiB, but"),
    ],
)
def test_what_cannot_be_run_is_refused_with_its_rule(tiny_plan: Plan, values: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        changed(baseline_of(tiny_plan), values)


@pytest.mark.parametrize(
    "text",
    [
        "mesh.ep=2",
        "mesh.etp=2",
        "layers.dispatch=allgather",
        "workload.expert_load=zipf:1",
        "workload.capacity_factor=2",
    ],
)
def test_what_only_experts_have_is_refused_in_a_dense_model(
    tiny_configuration: TrainingConfiguration, text: str
) -> None:
    key, _, value = text.partition("=")
    model = msgspec.structs.replace(tiny_configuration.model, layers=(DENSE,) * tiny_configuration.model.num_layers)
    mesh = msgspec.structs.replace(tiny_configuration.mesh, ep=1, etp=1)
    stages = tuple(
        tuple(msgspec.structs.replace(strategy, ep=1, etp=1) for strategy in stage)
        for stage in tiny_configuration.stages
    )
    dense = msgspec.structs.replace(tiny_configuration, model=model, mesh=mesh, stages=stages)
    draft = draft_of(dense)
    change = CHANGES[key]
    with pytest.raises(InputError, match="has no experts: it is a dense model"):
        changed_configuration(dense, change.put(draft, change.read(key, value, change.get(draft))))
