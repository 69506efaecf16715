from __future__ import annotations

import pytest

from meshwright.costmodel.errors import InputError
from meshwright.planner.changes import CHANGES, full_key, parse_changes
from meshwright.planner.changes.register import SHORT, SYNONYMS
from meshwright.planner.circumstance_changes import CIRCUMSTANCE_CHANGES

ISSUE = (
    "cluster.network_bytes_per_s",
    "cluster.nics_per_node",
    "cluster.network_latency_s",
    "cluster.nvlink_bytes_per_s",
    "cluster.nvlink_latency_s",
    "cluster.gpu",
    "cluster.gpus_per_node",
    "cluster.num_gpus",
    "cluster.oversubscription",
    "cluster.memory_bytes",
    "model.num_experts",
    "model.top_k",
    "model.expert_intermediate",
    "model.shared_intermediate",
    "model.num_layers",
    "model.hidden",
    "model.num_heads",
    "model.vocab",
    "workload.global_batch",
    "workload.seq_len",
    "workload.precision",
    "mesh.tp",
    "mesh.sp",
    "mesh.cp",
    "mesh.ep",
    "mesh.etp",
    "mesh.pp",
    "mesh.dp",
    "mesh.order",
    "pipeline.schedule",
    "pipeline.virtual_stages",
    "pipeline.micro_batch_size",
    "sharding.zero",
    "sharding.offload_optimizer",
    "layers.recompute",
    "layers.attention",
    "layers.dispatch",
    "layers.communication",
    "layers.offload",
    "runtime.name",
    "runtime.attention_backend",
    "runtime.cuda_graphs",
    "runtime.fused_kernels",
    "runtime.overlap_expert",
    "workload.expert_load",
    "cluster.slow_gpu",
)


def test_every_synonym_stands_for_a_key_and_is_none_itself() -> None:
    assert {full_key(name) for name in SYNONYMS.values()} <= set(CHANGES)
    assert not SYNONYMS.keys() & SHORT.keys()


@pytest.mark.parametrize("key", ISSUE)
def test_what_a_plan_consists_of_has_a_key(key: str) -> None:
    assert key in CHANGES


def test_circumstances_are_among_the_keys() -> None:
    assert CIRCUMSTANCE_CHANGES.items() <= CHANGES.items()


@pytest.mark.parametrize("key", CHANGES)
def test_a_key_may_leave_out_its_section(key: str) -> None:
    assert full_key(key.rpartition(".")[2]) == full_key(key) == key


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("netwrk_bytes_per_s", "did you mean cluster.network_bytes_per_s?"),
        ("nics", "did you mean cluster.nics_per_node?"),
        ("cluster.num-nics", "did you mean cluster.nics_per_node?"),
        ("mtbf", "did you mean cluster.mean_time_between_failures_s?"),
        ("Context_Length", "did you mean workload.seq_len?"),
        ("cluster.num_gpu", "did you mean cluster.num_gpus"),
        ("num_expert", "did you mean model.num_experts?"),
        ("sequence_len", "did you mean layers.sequence_parallel or workload.seq_len?"),
        ("colour", "expected one of cluster.gpu, cluster.num_gpus, "),
    ],
)
def test_an_unknown_key_names_the_nearest(key: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        full_key(key, "--sweep")
    assert str(caught.value).startswith(f"--sweep: {key}: unknown key; {message}")


@pytest.mark.parametrize("texts", [("seq_len=1", "workload.seq_len=2"), ("ep=2", "mesh.ep=2")])
def test_a_key_given_twice_is_refused(texts: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="given twice"):
        parse_changes(texts)
