"""Attention halves by hand: b = 1, s = 1024, h = 512, 8 heads of 64."""

from __future__ import annotations

import msgspec
import pytest

from meshwright.costmodel.model import AttentionSpec, DenseFfnSpec, LayerSpec
from meshwright.costmodel.program.layer import build_layer
from meshwright.costmodel.program.operators import (
    AttentionWork,
    Axis,
    Collective,
    CollectiveWork,
    GemmWork,
    MemoryWork,
    Operator,
    Precision,
)
from meshwright.costmodel.program.program import LayerProgram
from meshwright.costmodel.program.recompute import plan_backward
from meshwright.costmodel.program.setting import ProgramSetting
from meshwright.costmodel.strategy import ContextMethod, LayerStrategy, Recompute

S, H = 1024, 512
GQA = AttentionSpec(num_heads=8, num_kv_heads=2, head_dim=64, value_head_dim=64)
MLA = AttentionSpec(
    num_heads=8, num_kv_heads=8, head_dim=96, value_head_dim=64, rope_head_dim=32, kv_lora_rank=128, query_lora_rank=192
)


def _build(
    attention: AttentionSpec, strategy: LayerStrategy, precision: Precision = Precision.BF16, num_norms: int = 2
) -> LayerProgram:
    layer = LayerSpec(attention=attention, ffn=DenseFfnSpec(intermediate=1024), num_norms=num_norms)
    setting = ProgramSetting(
        hidden=H, micro_batch=1, seq_len=S, strategy=strategy, gpus_per_node=8, precision=precision
    )
    return build_layer(layer, setting)


def _operator(program: LayerProgram, name: str) -> Operator:
    return next(op for op in (*program.forward, *program.backward) if op.name == name)


def _gemm(program: LayerProgram, name: str) -> tuple[int, int, int]:
    work = _operator(program, name).work
    assert isinstance(work, GemmWork)
    return work.m, work.n, work.k


def _collective(program: LayerProgram, name: str) -> tuple[Collective, float, int]:
    work = _operator(program, name).work
    assert isinstance(work, CollectiveWork)
    return work.collective, work.num_bytes, work.group.size


def _collectives(program: LayerProgram, axis: Axis) -> list[str]:
    return [op.name for op in (*program.forward, *program.backward) if op.axis is axis]


def test_sequence_parallel_tp_gathers_tokens_and_scatters_outputs() -> None:
    program = _build(GQA, LayerStrategy(tp=2))
    assert program.sizes()["hidden"] == S * H * 2 / 2
    assert _gemm(program, "qkv") == (S, (8 + 2 * 2) * 64 // 2, H)
    assert _gemm(program, "attn_projection") == (S, H, H // 2)
    whole = S * H * 2
    assert _collective(program, "all_gather.ln1_out") == (Collective.ALL_GATHER, whole, 2)
    assert _collective(program, "reduce_scatter.attn_out") == (Collective.REDUCE_SCATTER, whole, 2)
    assert _collective(program, "all_gather.grad_attn_out") == (Collective.ALL_GATHER, whole, 2)
    assert _collective(program, "reduce_scatter.grad_ln1_out") == (Collective.REDUCE_SCATTER, whole, 2)
    assert len(_collectives(program, Axis.TENSOR)) == 4
    plan = plan_backward(program, Recompute.NONE)
    assert [op.name for op in plan.recomputed] == ["all_gather.ln1_out"]
    assert {"ln1_out"} <= plan.kept
    assert "ln1_out_ag" not in plan.kept


def test_tp_without_sequence_parallel_all_reduces_once_each_way() -> None:
    program = _build(GQA, LayerStrategy(tp=2, sequence_parallel=False))
    assert program.sizes()["hidden"] == S * H * 2
    assert _collectives(program, Axis.TENSOR) == ["all_reduce.attn_out", "all_reduce.grad_ln1_out"]
    for name in _collectives(program, Axis.TENSOR):
        assert _collective(program, name) == (Collective.ALL_REDUCE, S * H * 2, 2)
    assert "ln1_out" in _operator(program, "qkv").reads


@pytest.mark.parametrize(("tp", "heads"), [(1, 2), (2, 1), (4, 1), (8, 1)])
def test_too_few_key_value_heads_are_replicated_over_tp(tp: int, heads: int) -> None:
    program = _build(GQA, LayerStrategy(tp=tp))
    width = (8 // tp + 2 * heads) * 64
    assert _gemm(program, "qkv") == (S, width, H)
    assert _gemm(program, "qkv.wgrad") == (H, width, S)
    dense_ffn, norms = 3 * H * 1024, 2 * H
    assert program.weights.non_expert == H * width + 8 // tp * 64 * H + dense_ffn + norms
    assert program.sizes()["k"] == S * heads * 64 * 2


@pytest.mark.parametrize(("sp", "heads"), [(2, 1), (4, 1), (8, 1)])
def test_ulysses_exchanges_replicated_key_value_heads(sp: int, heads: int) -> None:
    program = _build(GQA, LayerStrategy(sp=sp))
    assert _gemm(program, "qkv") == (S // sp, (8 + 4) * 64, H)
    exchanged = S * (8 // sp + 2 * heads) * 64 * 2
    kind = Collective.ALL_TO_ALL
    assert _collective(program, "all_to_all.qkv") == (kind, exchanged, sp)
    assert _collective(program, "all_to_all.grad_qkv") == (kind, exchanged, sp)
    assert _collective(program, "all_to_all.attn") == (kind, S / sp * 8 * 64 * 2, sp)
    assert _collective(program, "all_to_all.grad_attn") == (kind, S / sp * 8 * 64 * 2, sp)
    work = _operator(program, "attention").work
    assert isinstance(work, AttentionWork)
    assert (work.num_heads, work.num_kv_heads) == (8 // sp, heads)


def test_uneven_heads_are_those_of_the_busiest_rank() -> None:
    uneven = msgspec.structs.replace(GQA, num_heads=6)
    program = _build(uneven, LayerStrategy(sp=4))
    work = _operator(program, "attention").work
    assert isinstance(work, AttentionWork)
    assert work.num_heads == 2
    assert program.sizes()["attn_a2a"] == S / 4 * 6 * 64 * 2


def test_tp_and_ulysses_together() -> None:
    program = _build(msgspec.structs.replace(GQA, num_kv_heads=4), LayerStrategy(tp=2, sp=2))
    assert _gemm(program, "qkv") == (S // 2, (4 + 2 * 2) * 64, H)
    assert _collective(program, "all_to_all.qkv") == (Collective.ALL_TO_ALL, S * (2 + 2) * 64 * 2, 2)
    assert _collective(program, "all_gather.ln1_out") == (Collective.ALL_GATHER, S / 2 * H * 2, 2)


@pytest.mark.parametrize("cp", [2, 4])
def test_ring_sends_blocks_forward_and_blocks_and_gradients_backward(cp: int) -> None:
    program = _build(GQA, LayerStrategy(cp=cp, context_method=ContextMethod.RING))
    hops = (cp - 1) * (S / cp) * 2 * (64 + 64) * 2
    assert _collective(program, "ring.kv") == (Collective.SEND_RECV, hops, cp)
    assert _collective(program, "ring.grad_kv") == (Collective.SEND_RECV, hops, cp)
    plan = plan_backward(program, Recompute.NONE)
    assert [op.name for op in plan.recomputed] == ["ring.kv"]


def test_gathered_keys_and_values_of_a_context_group() -> None:
    program = _build(GQA, LayerStrategy(cp=4, tp=2))
    gathered = S * 1 * (64 + 64) * 2
    assert _collective(program, "all_gather.kv") == (Collective.ALL_GATHER, gathered, 4)
    assert _collective(program, "reduce_scatter.grad_kv") == (Collective.REDUCE_SCATTER, gathered, 4)
    work = _operator(program, "attention").work
    assert isinstance(work, AttentionWork)
    assert (work.query_len, work.key_len, work.pairs) == (S // 4, S, S * S / 2 / 4)


def test_context_parallel_ulysses_gathers_exchanged_heads() -> None:
    program = _build(GQA, LayerStrategy(cp=2, sp=2))
    assert _collective(program, "all_gather.kv") == (Collective.ALL_GATHER, S * 1 * (64 + 64) * 2, 2)
    assert _operator(program, "all_gather.kv").reads == ("qkv_a2a",)


def test_windows_and_chunks_score_fewer_pairs() -> None:
    def pairs(attention: AttentionSpec) -> float:
        work = _operator(_build(attention, LayerStrategy()), "attention").work
        assert isinstance(work, AttentionWork)
        return work.pairs

    assert pairs(msgspec.structs.replace(GQA, window=128)) == S * 128 - 128 * 128 / 2
    assert pairs(msgspec.structs.replace(GQA, chunk=256)) == 4 * 256 * 256 / 2


def test_latents_not_hidden_vectors_are_gathered() -> None:
    program = _build(MLA, LayerStrategy(tp=4))
    assert _gemm(program, "q_down") == (S // 4, 192, H)
    assert _gemm(program, "kv_down") == (S // 4, 128 + 32, H)
    assert _gemm(program, "q_up") == (S, 2 * 96, 192)
    assert _gemm(program, "kv_up") == (S, 2 * (64 + 64), 128)
    assert _collective(program, "all_gather.q_latent_norm") == (Collective.ALL_GATHER, S * 192 * 2, 4)
    assert _collective(program, "all_gather.kv_latent_norm") == (Collective.ALL_GATHER, S * 160 * 2, 4)
    assert "all_gather.ln1_out" not in _collectives(program, Axis.TENSOR)


def test_mla_without_query_latent_gathers_hidden_vectors_for_the_query() -> None:
    program = _build(msgspec.structs.replace(MLA, query_lora_rank=0), LayerStrategy(tp=4))
    assert _gemm(program, "q_up") == (S, 2 * 96, H)
    assert _collective(program, "all_gather.ln1_out") == (Collective.ALL_GATHER, S * H * 2, 4)


def test_mla_rotates_the_rotary_part_and_puts_keys_together() -> None:
    work = _operator(_build(MLA, LayerStrategy()), "rope").work
    assert isinstance(work, MemoryWork)
    assert work.read_bytes == S * 2 * (8 * 32 + 8 * 64 + 32)
    assert work.write_bytes == S * 2 * (8 * 32 + 8 * 96)


def test_query_key_norms_read_and_write_heads_once_more() -> None:
    program = _build(msgspec.structs.replace(GQA, qk_norm=True), LayerStrategy())
    work = _operator(program, "qk_norm").work
    assert isinstance(work, MemoryWork)
    assert work.read_bytes == work.write_bytes == S * (8 + 2) * 64 * 2
    assert {"q", "k"} <= plan_backward(program, Recompute.NONE).kept
    assert program.weights.non_expert - _build(GQA, LayerStrategy()).weights.non_expert == 2 * 64
    weightless = msgspec.structs.replace(GQA, qk_norm=True, qk_norm_weights=False)
    assert _build(weightless, LayerStrategy()).weights == _build(GQA, LayerStrategy()).weights


def test_biases_and_sinks_are_weights_of_the_rank_that_has_the_heads() -> None:
    full = msgspec.structs.replace(GQA, qkv_bias=True, output_bias=True, sinks=True)
    more = _build(full, LayerStrategy(tp=2)).weights.non_expert - _build(GQA, LayerStrategy(tp=2)).weights.non_expert
    assert more == (4 + 2 * 1) * 64 + H + 4


def test_shared_keys_and_values_are_neither_projected_nor_held() -> None:
    program = _build(msgspec.structs.replace(GQA, shares_key_value=True), LayerStrategy(sp=2))
    assert _gemm(program, "qkv") == (S // 2, 8 * 64, H)
    assert program.sizes()["previous_kv"] == 0.0
    assert _collective(program, "all_to_all.qkv") == (Collective.ALL_TO_ALL, S * 4 * 64 * 2, 2)
    assert "k" not in program.sizes()
    assert "previous_kv" in _operator(program, "attention").reads


def test_a_third_and_fourth_norm_stand_behind_the_blocks() -> None:
    program = _build(GQA, LayerStrategy(), num_norms=4)
    assert "attn_out_normed" in _operator(program, "residual1").reads
    assert "ffn_out_normed" in _operator(program, "residual2").reads
    assert {"attn_out", "ffn_out"} <= plan_backward(program, Recompute.NONE).kept
    assert program.weights.non_expert - _build(GQA, LayerStrategy()).weights.non_expert == 2 * H


def test_fp8_casts_an_input_of_two_products_once_and_keeps_the_cast() -> None:
    program = _build(MLA, LayerStrategy(), Precision.FP8)
    casts = [op for op in program.forward if op.writes == ("ln1_out.fp8",)]
    assert [op.name for op in casts] == ["q_down.cast"]
    assert _operator(program, "kv_down").reads == ("ln1_out.fp8",)
    kept = plan_backward(program, Recompute.NONE).kept
    assert "ln1_out.fp8" in kept
    assert "ln1_out" not in kept
    assert {"attn", "attn.fp8"} <= kept  # attention's backward reads its output, the projection's wgrad the cast


def test_fp8_keeps_a_ranks_own_tokens_not_the_gathered_copy() -> None:
    plan = plan_backward(_build(GQA, LayerStrategy(tp=2), Precision.FP8), Recompute.NONE)
    assert "ln1_out" in plan.kept
    assert not {"ln1_out_ag", "ln1_out_ag.fp8"} & plan.kept
    assert [op.name for op in plan.recomputed] == ["all_gather.ln1_out", "qkv.cast"]


def test_weight_gradients_add_into_the_buffer_that_there_is() -> None:
    for fp32 in (True, False):
        layer = LayerSpec(attention=GQA, ffn=DenseFfnSpec(intermediate=1024))
        setting = ProgramSetting(
            hidden=H, micro_batch=1, seq_len=S, strategy=LayerStrategy(), gpus_per_node=8, fp32_gradients=fp32
        )
        for op in build_layer(layer, setting).backward:
            if isinstance(op.work, GemmWork):
                assert op.work.accumulates_fp32 is (fp32 and op.name.endswith(".wgrad"))
