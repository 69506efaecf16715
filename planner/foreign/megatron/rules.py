"""Megatron-LM's own rules: every one that the arguments break, with the values and the nearest that would do.

The rules are those of `validate_args`, `TransformerConfig.__post_init__`, `initialize_model_parallel`, the schedules
and the mixture-of-experts layer in the version that `data/megatron.json` names.
"""

from __future__ import annotations

from collections.abc import Iterator

from meshwright.planner.foreign.megatron.configuration import (
    context_method,
    expert_tensor_size,
    global_batch,
    model_parallel_size,
    ulysses_size,
)
from meshwright.planner.foreign.megatron.feature_rules import feature_rules
from meshwright.planner.foreign.megatron.model import expert_size, ffn_size, num_experts, num_query_groups
from meshwright.planner.foreign.megatron.stage_rules import stage_rules
from meshwright.planner.foreign.settings import Settings
from meshwright.planner.foreign.violation import Violation, nearest_divisors, nearest_multiples

WHOSE = "Megatron-LM"
TP = "--tensor-model-parallel-size"
EP = "--expert-model-parallel-size"


def broken_rules(settings: Settings, num_gpus: int) -> tuple[Violation, ...]:
    """All rules that are broken, sizes first."""
    return tuple(
        Violation(whose=WHOSE, rule=rule, values=values, fix=fix)
        for rules in (_sizes, _heads, _widths, _experts, _tokens)
        for breaks, rule, values, fix in rules(settings, num_gpus)
        if breaks
    ) + tuple(
        Violation(whose=WHOSE, rule=rule, values=values, fix=fix)
        for breaks, rule, values, fix in (*stage_rules(settings, num_gpus), *feature_rules(settings, num_gpus))
        if breaks
    )


Rule = tuple[bool, str, str, str]
"""Whether it is broken, what it says, the values, the nearest legal change."""


def _sizes(settings: Settings, num_gpus: int) -> Iterator[Rule]:
    tp, pp = settings.integer("tensor_model_parallel_size"), settings.integer("pipeline_model_parallel_size")
    cp, replica = settings.integer("context_parallel_size"), model_parallel_size(settings)
    yield (
        num_gpus % replica != 0,
        "the GPUs are a multiple of tp x pp x cp",
        f"{num_gpus} GPUs, tp {tp} x pp {pp} x cp {cp} = {replica}",
        f"{nearest_multiples(replica, num_gpus)} GPUs",
    )
    if num_experts(settings):
        ep, etp = settings.integer("expert_model_parallel_size"), expert_tensor_size(settings)
        experts = ep * etp * pp
        yield (
            num_gpus % experts != 0,
            "the GPUs are a multiple of etp x ep x pp",
            f"{num_gpus} GPUs, etp {etp} x ep {ep} x pp {pp} = {experts}",
            f"{nearest_multiples(experts, num_gpus)} GPUs"
            + (f", or {EP} {nearest_divisors(num_gpus // (etp * pp), ep)}" if num_gpus % (etp * pp) == 0 else ""),
        )


def _heads(settings: Settings, _: int) -> Iterator[Rule]:
    heads, groups = settings.integer("num_attention_heads"), num_query_groups(settings)
    tp, hidden = settings.integer("tensor_model_parallel_size"), settings.integer("hidden_size")
    yield (
        heads % tp != 0,
        "tp divides the attention heads",
        f"{heads} heads, tp {tp}",
        f"{TP} {nearest_divisors(heads, tp)}",
    )
    yield (
        heads % groups != 0,
        "query groups divide the attention heads",
        f"{heads} heads, {groups} query groups",
        f"--num-query-groups {nearest_divisors(heads, groups)}",
    )
    yield (
        groups % tp != 0 and tp % groups != 0,
        "tp divides the query groups, or they divide tp",
        f"{groups} query groups, tp {tp}",
        f"{TP} {nearest_divisors(groups, tp)}",
    )
    yield (
        not settings.has("kv_channels") and hidden % heads != 0,
        "the heads divide the hidden size, unless their size is given",
        f"hidden size {hidden}, {heads} heads",
        "--kv-channels",
    )
    ulysses, method = ulysses_size(settings), context_method(settings)
    yield (
        ulysses > 1 and groups % (tp * ulysses) != 0,
        f"with --cp-comm-type {method}, tp x the ranks that exchange heads divides the query groups",
        f"{groups} query groups, tp {tp} x {ulysses} = {tp * ulysses}",
        "--cp-comm-type p2p",
    )


def _widths(settings: Settings, _: int) -> Iterator[Rule]:
    tp, shared = (
        settings.integer("tensor_model_parallel_size"),
        settings.integer("moe_shared_expert_intermediate_size", 0),
    )
    dense = not num_experts(settings) or settings.text("moe_layer_freq") != "1"
    width = ffn_size(settings)
    yield (
        dense and width % tp != 0,
        "tp divides the FFN's width",
        f"width {width}, tp {tp}",
        f"{TP} {nearest_divisors(width, tp)}",
    )
    yield (
        shared % tp != 0,
        "tp divides the width of the shared experts",
        f"width {shared}, tp {tp}",
        f"{TP} {nearest_divisors(shared or 1, tp)}",
    )
    if num_experts(settings):
        etp, expert = expert_tensor_size(settings), expert_size(settings)
        yield (
            expert % etp != 0,
            "etp divides the width of an expert",
            f"width {expert}, etp {etp}",
            f"--expert-tensor-parallel-size {nearest_divisors(expert, etp)}",
        )


def _experts(settings: Settings, _: int) -> Iterator[Rule]:
    experts, ep = num_experts(settings), settings.integer("expert_model_parallel_size")
    tp = settings.integer("tensor_model_parallel_size")
    yield not experts and ep > 1, "ep needs experts", f"no --num-experts, ep {ep}", f"{EP} 1"
    if not experts:
        yield (
            settings.has("moe_ffn_hidden_size"),
            "a width of experts needs experts",
            "no --num-experts",
            "--num-experts",
        )
        return
    yield (
        experts % ep != 0,
        "ep divides the experts",
        f"{experts} experts, ep {ep}",
        f"{EP} {nearest_divisors(experts, ep)}",
    )
    yield (
        tp > 1 and not settings.on("sequence_parallel"),
        "experts with tp need sequence parallelism",
        f"{experts} experts, tp {tp}",
        "--sequence-parallel",
    )
    yield from _routing(settings, experts)
    yield (
        settings.on("add_bias_linear") and expert_tensor_size(settings) > 1,
        "experts with biases are not split",
        f"biases on, etp {expert_tensor_size(settings)}",
        "--disable-bias-linear, or --expert-tensor-parallel-size 1",
    )
    yield from _expert_groups(settings, experts)


def _routing(settings: Settings, experts: int) -> Iterator[Rule]:
    top_k, bias = settings.integer("moe_router_topk"), settings.on("moe_router_enable_expert_bias")
    score, pre = settings.text("moe_router_score_function"), settings.on("moe_router_pre_softmax")
    yield (
        top_k > experts,
        "a token goes to no more experts than there are",
        f"{experts} experts, top-k {top_k}",
        f"--moe-router-topk {experts}",
    )
    sinkhorn = settings.words("moe_router_load_balancing_type") == ("sinkhorn",)
    yield (
        top_k == 1 and score == "softmax" and not pre and not sinkhorn,
        "top-1 routing takes the softmax first",
        "top-k 1",
        "--moe-router-pre-softmax",
    )
    yield (
        bias and score == "softmax",
        "a bias of the experts needs sigmoid scores",
        f"--moe-router-enable-expert-bias, {score}",
        "--moe-router-score-function sigmoid",
    )


def _expert_groups(settings: Settings, experts: int) -> Iterator[Rule]:
    groups, taken = settings.integer("moe_router_num_groups", 0), settings.integer("moe_router_group_topk", 0)
    yield (
        taken > 0 and not groups,
        "groups per token need groups",
        f"--moe-router-group-topk {taken}",
        "--moe-router-num-groups",
    )
    yield (
        taken > 0 and groups > 0 and experts % groups != 0,
        "groups divide the experts",
        f"{experts} experts, {groups} groups",
        f"--moe-router-num-groups {nearest_divisors(experts, groups)}",
    )
    yield (
        taken > groups > 0,
        "no more groups per token than groups",
        f"{taken} of {groups}",
        f"--moe-router-group-topk {groups}",
    )


def _tokens(settings: Settings, num_gpus: int) -> Iterator[Rule]:
    seq, cp = settings.integer("seq_length"), settings.integer("context_parallel_size")
    tp, longest = settings.integer("tensor_model_parallel_size"), settings.integer("max_position_embeddings", 0)
    yield (
        cp > 1 and seq % (2 * cp) != 0,
        "the sequence is a multiple of 2 x cp",
        f"{seq} tokens, cp {cp}",
        f"--seq-length {nearest_multiples(2 * cp, seq)}",
    )
    split = tp if settings.on("sequence_parallel") else 1
    yield (
        seq % (split * cp) != 0,
        "with sequence parallelism the sequence is a multiple of tp x cp",
        f"{seq} tokens, tp {tp} x cp {cp}",
        f"--seq-length {nearest_multiples(split * cp, seq)}",
    )
    yield not longest, "positions are given", "no --max-position-embeddings", f"--max-position-embeddings {seq}"
    yield (
        0 < longest < seq,
        "there is a position for each token of a sequence",
        f"{seq} tokens, {longest} positions",
        f"--max-position-embeddings {seq}",
    )
    replica, micro = model_parallel_size(settings), settings.integer("micro_batch_size")
    if num_gpus % replica == 0:
        dp = num_gpus // replica
        batch = global_batch(settings, dp)
        yield (
            batch % (micro * dp) != 0,
            "the global batch is a multiple of micro-batch x dp",
            f"global batch {batch}, micro-batch {micro} x dp {dp} = {micro * dp}",
            f"--global-batch-size {nearest_multiples(micro * dp, batch)}",
        )
    schedule = settings.has("step_batch_size_schedule") and settings.has("global_batch_size")
    yield (
        schedule,
        "either a batch or a schedule of batches",
        "--global-batch-size and --step-batch-size-schedule",
        "drop one of them",
    )
