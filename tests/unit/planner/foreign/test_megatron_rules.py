from __future__ import annotations

from collections.abc import Callable

import pytest

from meshwright.planner.foreign.megatron import MEGATRON
from meshwright.planner.foreign.settings import Reading

TP8 = "--tensor-model-parallel-size 8"
PP4 = "--pipeline-model-parallel-size 4"
VP2 = f"{PP4} --num-virtual-stages-per-pipeline-rank 2"

DENSE_CASES = [
    ("--tensor-model-parallel-size 3", 66, "tp divides the attention heads", "--tensor-model-parallel-size 2 or 4"),
    ("--tensor-model-parallel-size 3", 64, "the GPUs are a multiple of tp x pp x cp", "63 or 66 GPUs"),
    (
        f"{TP8} --group-query-attention --num-query-groups 12 --num-attention-heads 48 --kv-channels 128",
        64,
        "tp divides the query groups, or they divide tp",
        "--tensor-model-parallel-size 6 or 12",
    ),
    ("--num-attention-heads 30", 64, "the heads divide the hidden size", "--kv-channels"),
    (f"{TP8} --ffn-hidden-size 11004", 64, "tp divides the FFN's width", "--tensor-model-parallel-size 7 or 12"),
    ("--pipeline-model-parallel-size 5", 60, "pp divides the layers", "--pipeline-model-parallel-size 4 or 8"),
    (f"{PP4} --num-layers-per-virtual-pipeline-stage 3", 64, "divide the layers of a stage", "2 or 4"),
    (
        f"{PP4} --decoder-first-pipeline-num-layers 6 --decoder-last-pipeline-num-layers 7",
        64,
        "share the other layers evenly",
        "--num-layers 33",
    ),
    (f"{VP2} --num-layers-per-virtual-pipeline-stage 4", 64, "virtual stages are given in one way", "keep"),
    (f"{VP2} --global-batch-size 96", 64, "groups of pp", "--global-batch-size 64 or 128"),
    (
        "--pipeline-model-parallel-size 2 --num-virtual-stages-per-pipeline-rank 2 --no-overlap-p2p-communication",
        64,
        "without overlap of messages three",
        "--pipeline-model-parallel-size 3",
    ),
    (f"{PP4} --pipeline-model-parallel-layout 'Et*8|t*8|t*8|t*7L'", 64, "a layout has all layers", "layout"),
    ("--global-batch-size 100", 64, "multiple of micro-batch x dp", "--global-batch-size 64 or 128"),
    ("--context-parallel-size 3", 66, "the sequence is a multiple of 2 x cp", "--seq-length 4092 or 4098"),
    ("--max-position-embeddings 2048", 64, "a position for each token", "--max-position-embeddings 4096"),
    ("--overlap-param-gather --overlap-grad-reduce", 64, "gathered by the distributed optimizer", "--use-distributed-"),
    ("--overlap-param-gather --use-distributed-optimizer", 64, "overlap only where reductions do", "--overlap-grad-"),
    (f"{TP8} --tp-comm-overlap", 64, "needs sequence parallelism", "--sequence-parallel"),
    ("--fp16", 64, "one number format", "drop --fp16"),
    ("--fp8-param-gather --use-distributed-optimizer", 64, "need FP8 training", "--fp8-format hybrid"),
    ("--recompute-granularity full", 64, "needs a method", "--recompute-method uniform"),
    ("--recompute-granularity full --recompute-method block", 64, "needs a number of layers", "--recompute-num-layers"),
    ("--recompute-activations --recompute-method block", 64, "has no method", "drop --recompute-method"),
    (
        "--recompute-granularity selective --recompute-modules nothing",
        64,
        "modules that can be recomputed",
        "core_attn",
    ),
    ("--recompute-granularity selective --recompute-modules mla_up_proj", 64, "needs latent attention", "drop"),
    ("--multi-latent-attention --group-query-attention", 64, "latent attention has no query groups", "drop"),
    ("--mtp-num-layers 1 --position-embedding-type learned_absolute", 64, "needs rotary positions", "rope"),
    ("--expert-model-parallel-size 2", 64, "ep needs experts", "--expert-model-parallel-size 1"),
    ("--optimizer-cpu-offload", 64, "is the precision-aware one", "--use-precision-aware-optimizer"),
    (f"--use-torch-fsdp2 {PP4}", 64, "PyTorch's FSDP has no pipeline", "--pipeline-model-parallel-size 1"),
    (
        "--context-parallel-size 4 --cp-comm-type a2a+p2p",
        64,
        "needs its sizes",
        "--hierarchical-context-parallel-sizes",
    ),
    (
        "--context-parallel-size 64 --cp-comm-type a2a",
        64,
        "with --cp-comm-type a2a, tp x the ranks that exchange heads divides the query groups",
        "--cp-comm-type p2p",
    ),
    (
        "--context-parallel-size 128 --cp-comm-type a2a+p2p --hierarchical-context-parallel-sizes 64 2",
        128,
        "with --cp-comm-type a2a+p2p, tp x the ranks that exchange heads divides the query groups",
        "--cp-comm-type p2p",
    ),
    ("--num-distributed-optimizer-instances 3", 64, "instances of the optimizer divide", "instances 1"),
]
MOE_CASES = [
    ("--expert-model-parallel-size 3", 66, "ep divides the experts", "--expert-model-parallel-size 2 or 4"),
    (f"--expert-model-parallel-size 8 {PP4}", 8, "the GPUs are a multiple of etp x ep x pp", "32 GPUs"),
    (TP8, 64, "experts with tp need sequence parallelism", "--sequence-parallel"),
    ("--moe-router-topk 9", 64, "no more experts than there are", "--moe-router-topk 8"),
    ("--moe-router-topk 1", 64, "top-1 routing takes the softmax first", "--moe-router-pre-softmax"),
    ("--moe-router-enable-expert-bias", 64, "needs sigmoid scores", "sigmoid"),
    ("--moe-router-group-topk 2", 64, "groups per token need groups", "--moe-router-num-groups"),
    ("--moe-enable-deepep", 64, "DeepEP is a backend of flex", "--moe-token-dispatcher-type flex"),
    ("--moe-token-dispatcher-type flex", 64, "flex dispatch needs tp x ep > 1", "alltoall"),
    ("--moe-pad-expert-input-to-capacity", 64, "padding needs a capacity", "--moe-expert-capacity-factor 1.0"),
    (
        "--moe-shared-expert-overlap --moe-token-dispatcher-type allgather",
        64,
        "shared experts overlap with",
        "alltoall",
    ),
    ("--overlap-moe-expert-parallel-comm", 64, "overlap of the dispatch needs ep", "drop"),
    (
        f"--overlap-moe-expert-parallel-comm --expert-model-parallel-size 8 {PP4}",
        64,
        "needs virtual stages",
        "--num-virtual-stages-per-pipeline-rank 2",
    ),
    ("--delay-wgrad-compute", 64, "beside the dispatch only", "--overlap-moe-expert-parallel-comm"),
]


@pytest.mark.parametrize(("added", "num_gpus", "rule", "fix"), DENSE_CASES)
def test_a_broken_rule_of_a_dense_model_names_its_fix(
    megatron: Callable[[str], Reading], dense_arguments: str, added: str, num_gpus: int, rule: str, fix: str
) -> None:
    check(megatron(f"{dense_arguments} {added}"), num_gpus, rule, fix)


@pytest.mark.parametrize(("added", "num_gpus", "rule", "fix"), MOE_CASES)
def test_a_broken_rule_of_experts_names_its_fix(
    megatron: Callable[[str], Reading], moe_arguments: str, added: str, num_gpus: int, rule: str, fix: str
) -> None:
    check(megatron(f"{moe_arguments} {added}"), num_gpus, rule, fix)


def check(reading: Reading, num_gpus: int, rule: str, fix: str) -> None:
    broken = [violation for violation in MEGATRON.broken_rules(reading.settings, num_gpus) if rule in violation.rule]
    assert len(broken) == 1
    assert fix in broken[0].fix
    assert broken[0].values


def test_what_is_legal_breaks_no_rule(
    megatron: Callable[[str], Reading], dense_arguments: str, moe_arguments: str
) -> None:
    dense = f"{dense_arguments} {TP8} --sequence-parallel {VP2} --global-batch-size 32"
    assert MEGATRON.broken_rules(megatron(dense).settings, 64) == ()
    moe = (
        f"{moe_arguments} --expert-model-parallel-size 8 --moe-token-dispatcher-type flex {PP4} --global-batch-size 64"
    )
    assert MEGATRON.broken_rules(megatron(moe).settings, 64) == ()


def test_all_broken_rules_are_listed(megatron: Callable[[str], Reading], dense_arguments: str) -> None:
    added = "--tensor-model-parallel-size 3 --pipeline-model-parallel-size 5 --overlap-param-gather"
    rules = [violation.rule for violation in MEGATRON.broken_rules(megatron(f"{dense_arguments} {added}").settings, 64)]
    assert len(rules) == 7
