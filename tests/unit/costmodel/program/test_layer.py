"""MegaScale-MoE (arXiv 2505.11432): table 2's models, equations 1 to 4 and the activations of figure 9."""

from __future__ import annotations

import pytest

from meshwright.costmodel.model import AttentionSpec, LayerSpec, MoeFfnSpec
from meshwright.costmodel.program.layer import build_layer
from meshwright.costmodel.program.operators import Axis, CollectiveWork, GemmWork, GroupedGemmWork, Operator
from meshwright.costmodel.program.program import LayerProgram, sent_bytes
from meshwright.costmodel.program.recompute import plan_backward
from meshwright.costmodel.program.setting import ProgramSetting
from meshwright.costmodel.strategy import Dispatch, LayerStrategy, Recompute

S = 8192
BYTES = 2
MODELS = {  # h, heads, m, expert width, experts, k
    "internal-352b": (4096, 32, 4, 14336, 32, 3),
    "mixtral-8x7b": (4096, 32, 4, 14336, 8, 2),
    "mixtral-8x22b": (6144, 48, 6, 16384, 8, 2),
    "hunyuan-large": (6400, 80, 10, 18304, 16, 1),
    "phi-3.5-moe": (4096, 32, 4, 6400, 16, 2),
    "deepseek-moe": (2048, 16, 1, 1408, 64, 6),
}
each_model = pytest.mark.parametrize(("h", "heads", "m", "width", "experts", "k"), MODELS.values(), ids=MODELS)
each_group = pytest.mark.parametrize("n", [2, 4, 8])


def _layer(h: int, heads: int, m: int, width: int, experts: int, k: int) -> LayerSpec:
    d = h // heads
    attention = AttentionSpec(num_heads=heads, num_kv_heads=heads // m, head_dim=d, value_head_dim=d)
    return LayerSpec(attention=attention, ffn=MoeFfnSpec(num_experts=experts, top_k=k, intermediate=width))


def _program(layer: LayerSpec, h: int, strategy: LayerStrategy, b: int = 1) -> LayerProgram:
    return build_layer(layer, ProgramSetting(hidden=h, micro_batch=b, seq_len=S, strategy=strategy, gpus_per_node=8))


def _elements_sent(operators: tuple[Operator, ...], axis: Axis) -> float:
    return sum(
        sent_bytes(op.work) / BYTES for op in operators if op.axis is axis and isinstance(op.work, CollectiveWork)
    )


def _both_ways(program: LayerProgram, axis: Axis) -> tuple[float, float]:
    return _elements_sent(program.forward, axis), _elements_sent(program.backward, axis)


@each_model
@each_group
def test_tensor_parallel_attention_moves_equation_1(
    h: int, heads: int, m: int, width: int, experts: int, k: int, n: int
) -> None:
    program = _program(_layer(h, heads, m, width, experts, k), h, LayerStrategy(tp=n, ep=n), b=2)
    equation = 2 * 2 * S * h * (n - 1) / n
    assert _both_ways(program, Axis.TENSOR) == pytest.approx((equation, equation))


@each_model
@each_group
def test_ulysses_moves_what_shapes_say_which_is_half_of_the_printed_equation_2(
    h: int, heads: int, m: int, width: int, experts: int, k: int, n: int
) -> None:
    program = _program(_layer(h, heads, m, width, experts, k), h, LayerStrategy(sp=n, ep=n))
    shapes = S * h / n * (2 + 2 / m) * (n - 1) / n
    printed = 2 * S * h * (n - 1) / n * (2 + 2 / m) / n
    assert _both_ways(program, Axis.SEQUENCE) == pytest.approx((shapes, shapes))
    assert printed == pytest.approx(2 * shapes)


@each_model
@each_group
def test_all_to_all_experts_move_equation_3(
    h: int, heads: int, m: int, width: int, experts: int, k: int, n: int
) -> None:
    program = _program(_layer(h, heads, m, width, experts, k), h, LayerStrategy(sp=n, ep=n))
    equation = 2 * k / n * S * h * (n - 1) / n
    assert _both_ways(program, Axis.EXPERT) == pytest.approx((equation, equation))


@each_model
@each_group
def test_gathered_experts_move_equation_4_whatever_k(
    h: int, heads: int, m: int, width: int, experts: int, k: int, n: int
) -> None:
    strategy = LayerStrategy(sp=n, ep=n, dispatch=Dispatch.ALL_GATHER)
    program = _program(_layer(h, heads, m, width, experts, k), h, strategy)
    equation = 2 * S * h * (n - 1) / n
    assert _both_ways(program, Axis.EXPERT) == pytest.approx((equation, equation))


@each_model
@each_group
def test_activations_of_figure_9(h: int, heads: int, m: int, width: int, experts: int, k: int, n: int) -> None:
    strategy = LayerStrategy(sp=n, ep=n, dispatch=Dispatch.ALL_GATHER)
    program = _program(_layer(h, heads, m, width, experts, k), h, strategy)
    f = width / h
    assert program.activation_bytes() == pytest.approx((2 * n + 2 * k + 3 * k * f + 12 + 5 / m) * S * h / n * BYTES)


@each_model
@each_group
def test_selective_rematerialization_keeps(
    h: int, heads: int, m: int, width: int, experts: int, k: int, n: int
) -> None:
    strategy = LayerStrategy(sp=n, ep=n, dispatch=Dispatch.ALL_GATHER)
    program = _program(_layer(h, heads, m, width, experts, k), h, strategy)
    plan = plan_backward(program, Recompute.SELECTIVE)
    small = {tensor.name: tensor.num_bytes for tensor in program.auxiliary if tensor.name in plan.kept}
    assert plan.kept - set(small) == {"hidden", "qkv_a2a", "attn", "ln2_in", "fc1_out", "fc3_out"}
    f = width / h
    kept = (2 * k * f + 4 + 2 / m) * S * h / n * BYTES
    assert plan.kept_bytes - sum(small.values()) == pytest.approx(kept)
    assert sum(small.values()) < 0.03 * kept
    cut = 1 - kept / program.activation_bytes()
    assert 0.60 < cut < 0.80 or n < 8


@each_model
def test_selective_rematerialization_reruns_no_matrix_product_but_the_router(
    h: int, heads: int, m: int, width: int, experts: int, k: int
) -> None:
    for dispatch in Dispatch:
        program = _program(_layer(h, heads, m, width, experts, k), h, LayerStrategy(sp=4, ep=4, dispatch=dispatch))
        rerun = plan_backward(program, Recompute.SELECTIVE).recomputed
        assert not [op.name for op in rerun if isinstance(op.work, GemmWork | GroupedGemmWork)]
        names = {op.name for op in rerun}
        assert {"norm1", "norm2", "permute", "dispatch", "experts_activation", "all_to_all.attn"} <= names
