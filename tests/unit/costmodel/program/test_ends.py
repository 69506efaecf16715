"""Embedding and head by hand: s = 512, h = 256, a vocabulary of 1000."""

from __future__ import annotations

import msgspec
import pytest

from meshwright.costmodel.formulas.parameters import mtp_parameters, total_parameters
from meshwright.costmodel.model import AttentionSpec, DenseFfnSpec, LayerSpec, ModelSpec
from meshwright.costmodel.presets import load_model
from meshwright.costmodel.program.ends import build_embedding, build_head
from meshwright.costmodel.program.layer import build_layer
from meshwright.costmodel.program.operators import (
    Collective,
    CollectiveWork,
    GemmWork,
    Operator,
    Pass,
    Precision,
)
from meshwright.costmodel.program.program import LayerProgram
from meshwright.costmodel.program.recompute import plan_backward
from meshwright.costmodel.program.setting import ProgramSetting
from meshwright.costmodel.strategy import LayerStrategy, Recompute

S, H, V = 512, 256, 1000
LAYER = LayerSpec(
    attention=AttentionSpec(num_heads=4, num_kv_heads=4, head_dim=64, value_head_dim=64),
    ffn=DenseFfnSpec(intermediate=512),
)
MODEL = ModelSpec(name="small", hidden=H, vocab=V, layers=(LAYER, LAYER))
TIED = msgspec.structs.replace(MODEL, tied_embeddings=True)


def _setting(strategy: LayerStrategy, precision: Precision = Precision.BF16) -> ProgramSetting:
    return ProgramSetting(hidden=H, micro_batch=1, seq_len=S, strategy=strategy, gpus_per_node=8, precision=precision)


def _collectives(operators: tuple[Operator, ...]) -> list[tuple[str, Collective, float]]:
    return [(op.name, op.work.collective, op.work.num_bytes) for op in operators if isinstance(op.work, CollectiveWork)]


def test_the_embedding_sums_the_vocabularys_parts() -> None:
    program = build_embedding(MODEL, _setting(LayerStrategy(tp=4, cp=2)))
    assert _collectives(program.forward) == [("reduce_scatter.hidden", Collective.REDUCE_SCATTER, S / 2 * H * 2)]
    assert _collectives(program.backward) == [("all_gather.grad_embedding", Collective.ALL_GATHER, S / 2 * H * 2)]
    assert program.weights.non_expert == 250 * H
    assert program.sizes()["hidden"] == S / 2 / 4 * H * 2


def test_the_embedding_without_sequence_parallelism_is_all_reduced_forward_alone() -> None:
    program = build_embedding(MODEL, _setting(LayerStrategy(tp=4, sequence_parallel=False)))
    assert _collectives(program.forward) == [("all_reduce.hidden", Collective.ALL_REDUCE, S * H * 2)]
    assert _collectives(program.backward) == []


def test_the_embedding_keeps_nothing_and_has_weight_gradients_alone() -> None:
    model = msgspec.structs.replace(MODEL, learned_positions=S)
    program = build_embedding(model, _setting(LayerStrategy()))
    assert {op.phase for op in program.backward} == {Pass.WGRAD}
    assert [op.name for op in program.forward] == ["embedding", "positions"]
    assert program.weights.non_expert == (V + S) * H
    assert plan_backward(program, Recompute.FULL).kept_bytes == 0


@pytest.mark.parametrize(("sequence_parallel", "kind"), [(True, "reduce_scatter"), (False, "all_reduce")])
def test_the_head_splits_the_vocabulary_padded(sequence_parallel: bool, kind: str) -> None:
    program = build_head(MODEL, _setting(LayerStrategy(tp=3, sequence_parallel=sequence_parallel)))
    head = next(op for op in program.forward if op.name == "head")
    assert head.work == GemmWork(m=S, n=334, k=H)
    assert program.weights.non_expert == 334 * H + H
    assert _collectives(program.backward) == [(f"{kind}.grad_final_norm_out", Collective(kind), S * H * 2)]
    assert program.sizes()["logits"] == S * 334 * 2
    assert _collectives(program.forward)[-1] == ("all_reduce.loss_statistics", Collective.ALL_REDUCE, S * 3 * 4)
    assert program.sizes()["loss_statistics_partial"] == program.sizes()["loss_statistics"]


def test_the_head_keeps_its_input_and_logits_not_gathered_copies() -> None:
    plan = plan_backward(build_head(MODEL, _setting(LayerStrategy(tp=2))), Recompute.NONE)
    assert plan.kept == {"hidden", "final_norm_out", "logits", "loss_statistics"}
    assert [op.name for op in plan.recomputed] == ["all_gather.final_norm_out"]


def test_eager_cross_entropy_keeps_fp32_logits_instead() -> None:
    program = build_head(MODEL, _setting(LayerStrategy()), fused_cross_entropy=False)
    plan = plan_backward(program, Recompute.NONE)
    assert plan.kept == {"hidden", "final_norm_out", "logits_fp32", "loss_statistics"}
    assert program.sizes()["logits_fp32"] == S * V * 4


def test_the_head_is_bf16_in_fp8_training() -> None:
    program = build_head(MODEL, _setting(LayerStrategy(), Precision.FP8))
    assert {op.work.precision for op in program.forward if isinstance(op.work, GemmWork)} == {Precision.BF16}


@pytest.mark.parametrize(
    ("model", "shares", "expected"),
    [(MODEL, False, V * H + H), (MODEL, True, V * H + H), (TIED, False, V * H + H), (TIED, True, H)],
)
def test_tied_ends_hold_one_copy_each_unless_they_meet(model: ModelSpec, shares: bool, expected: int) -> None:
    assert build_head(model, _setting(LayerStrategy()), shares_embedding=shares).weights.non_expert == expected


@pytest.mark.parametrize(
    "name",
    [
        "deepseek-v3",
        "llama-3.1-8b",
        "gpt3-175b",
        "qwen1.5-moe-a2.7b",
        "gpt-oss-20b",
        "hunyuan-large",
        "grok-1",
        "qwen3-0.6b",
        "phi-3.5-moe",
        "llama-4-scout",
        "deepseek-v2-lite",
        "dbrx",
    ],
)
def test_programs_on_one_gpu_hold_all_parameters_of_a_model(name: str) -> None:
    model = load_model(name)
    setting = ProgramSetting(hidden=model.hidden, micro_batch=1, seq_len=512, strategy=LayerStrategy(), gpus_per_node=8)
    programs = [build_embedding(model, setting), build_head(model, setting, shares_embedding=True)]
    programs += [build_layer(layer, setting) for layer in model.layers]
    held = sum(program.weights.non_expert + program.weights.expert for program in programs)
    assert held == total_parameters(model) + mtp_parameters(model)


def test_prediction_modules_are_a_layer_a_projection_and_a_head_pass() -> None:
    model = msgspec.structs.replace(MODEL, mtp_depth=2)
    plain, setting = build_head(MODEL, _setting(LayerStrategy())), _setting(LayerStrategy())
    program, layer = build_head(model, setting), build_layer(LAYER, setting)
    extra = _flops(program.forward) - _flops(plain.forward)
    assert extra == 2 * (_flops(layer.forward) + 2 * S * (2 * H * H + H * V))
    assert _flops(program.backward) == 2 * _flops(program.forward)
    copy_of_embedding = V * H
    own = layer.weights.non_expert + 2 * H * H + 3 * H
    assert program.weights.non_expert - plain.weights.non_expert == 2 * own + copy_of_embedding


def _flops(operators: tuple[Operator, ...]) -> float:
    return sum(2.0 * op.work.m * op.work.n * op.work.k for op in operators if isinstance(op.work, GemmWork))


@pytest.mark.parametrize("policy", Recompute)
@pytest.mark.parametrize("tp", [1, 4])
def test_ends_are_well_formed_under_every_policy(policy: Recompute, tp: int) -> None:
    model = msgspec.structs.replace(MODEL, mtp_depth=2, learned_positions=S)
    setting = _setting(LayerStrategy(tp=tp))
    for program, given in ((build_embedding(model, setting), "grad:hidden"), (build_head(model, setting), "hidden")):
        plan = plan_backward(program, policy)
        _replay(program.forward, {"hidden"})
        _replay((*plan.recomputed, *program.backward), {*plan.kept, given})
        assert len({op.name for op in (*program.forward, *program.backward)}) == len(program.forward) + len(
            program.backward
        )


def _replay(operators: tuple[Operator, ...], available: set[str]) -> None:
    for op in operators:
        assert available.issuperset(op.reads), (op.name, set(op.reads) - available)
        available.update(op.writes)


def test_full_recomputation_spares_the_head_and_reaches_the_prediction_layer() -> None:
    model = msgspec.structs.replace(MODEL, mtp_depth=1)
    plan = plan_backward(build_head(model, _setting(LayerStrategy())), Recompute.FULL)
    assert {"hidden", "logits", "mtp1.hidden", "mtp1.logits", "mtp1.projection_in"} <= plan.kept
    assert "mtp1.fc2_in" not in plan.kept
    rerun = {op.name for op in plan.recomputed}
    assert "mtp1.qkv" in rerun
    assert "head" not in rerun


def test_every_module_adds_to_the_gradient_of_the_main_stream() -> None:
    model = msgspec.structs.replace(MODEL, mtp_depth=2)
    program: LayerProgram = build_head(model, _setting(LayerStrategy()))
    writers = [op.name for op in program.backward if "grad:hidden" in op.writes]
    assert writers == ["mtp1.norms.backward", "final_norm.backward"]
    assert "grad:mtp1.next_hidden" in next(op for op in program.backward if op.name == "mtp1.final_norm.backward").reads
