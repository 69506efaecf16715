"""Terms of a layer of the 352B plan worked out with pencil and paper.

The model (MegaScale-MoE, table 2): hidden 4,096, 32 heads and 8 key-value heads of 128, 32 experts of 14,336, top 3,
one shared expert of that width, 60 layers, vocabulary 65,536. Mesh: pp 6 x dp 30 x sp 8, ep 16; micro-batch 2 x 8,192.
"""

from __future__ import annotations

import msgspec
import pytest

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.program.operators import Collective
from meshwright.costmodel.runtime import load_runtime
from meshwright.costmodel.stage_cost import cost_context
from meshwright.planner.explain.operators import OperatorTerm
from meshwright.planner.explain.parts import PartTerm, part_terms

ATTENTION = 4096 * 4096 + 2 * 4096 * 1024 + 4096 * 4096
NOT_FFN = ATTENTION + 4096 * 32 + 2 * 4096
EXPERT = 3 * 4096 * 14336
ON_RANK = {"not FFN": NOT_FFN, "dense FFN, shared experts": EXPERT, "routed experts": 2 * EXPERT}
HEAD = 4096 * 65536 + 4096
TOKENS = 2 * 8192 // 8


@pytest.fixture(scope="module")
def parts(large_configuration: TrainingConfiguration) -> tuple[PartTerm, ...]:
    """Embedding, the one kind of layer, head."""
    return part_terms(large_configuration)


def _operator(part: PartTerm, name: str) -> OperatorTerm:
    return next(operator for one in part.passes for operator in one.operators if operator.name == name)


def test_parameters_and_their_copies(parts: tuple[PartTerm, ...]) -> None:
    _, layer, head = parts
    assert {state.weights: state.num_parameters for state in layer.state} == ON_RANK
    # Attention is on all 30 x 8 ranks of a stage, experts on one in 16 of them.
    assert {state.weights: state.num_copies for state in layer.state} == {
        "not FFN": 240,
        "dense FFN, shared experts": 240,
        "routed experts": 15,
    }
    assert head.num_parameters == HEAD


def test_kept_tensors(parts: tuple[PartTerm, ...]) -> None:
    kept = {tensor.name: tensor.num_bytes for tensor in parts[1].kept}
    rows = kept["ffn_in"] / (2 * 4096)
    assert kept["hidden"] == kept["ln2_in"] == 2 * TOKENS * 4096 == 16_777_216
    assert kept["shared_fc1_out"] == kept["shared_fc3_out"] == 2 * TOKENS * 14336
    assert kept["fc1_out"] == pytest.approx(2 * rows * 14336)
    assert "fc2_in" not in kept  # the activation runs again


def test_products(parts: tuple[PartTerm, ...]) -> None:
    layer = parts[1]
    qkv, shared = _operator(layer, "qkv"), _operator(layer, "shared_fc1")
    assert qkv.flops == 2 * 2048 * 6144 * 4096
    assert qkv.num_bytes == 2 * (2048 * 4096 + 4096 * 6144 + 2048 * 6144)
    assert shared.flops == 2 * 2048 * (2 * 14336) * 4096
    assert shared.rate_per_s == pytest.approx(shared.flops / shared.time_s)
    assert shared.of_peak == pytest.approx(shared.flops / shared.time_s / 989.4e12)
    # 4 heads of 128 over half of the square, two sequences.
    attention = _operator(layer, "attention")
    assert attention.flops == 2 * (128 + 128) * (8192 * 8192 / 2) * 2 * 4


def test_experts_see_top_3_rows_and_the_busiest_rank_more(parts: tuple[PartTerm, ...]) -> None:
    """2,048 tokens x 3 = 6,144 rows; the busiest of 16 ranks of 2 experts has 1 + 0.14 z(16) / sqrt(2) times that."""
    first = _operator(parts[1], "experts_fc1")
    blom_16 = 1.7688  # Phi^-1((16 - 3/8) / (16 + 1/4)) = Phi^-1(0.96154), from a table of the normal distribution
    rows = 6144 * (1 + 0.14 * blom_16 / 2**0.5)
    assert first.flops == pytest.approx(2 * rows * 2 * 14336 * 4096, rel=1e-4)
    assert first.formulas[-1] == "experts.expected_imbalance"


def test_parameter_gather_of_the_experts(parts: tuple[PartTerm, ...]) -> None:
    """A ring of 15 nodes, one rank in each: 14/15 of 672 MiB at the ring's share of 50 GB/s, beside 14 latencies."""
    gather = next(one for state in parts[1].state for one in state.collectives if state.weights == "routed experts")
    sent = 2 * 2 * EXPERT * 14 / 15
    assert gather.num_bytes == 2 * 2 * EXPERT
    assert gather.algorithm.startswith("ring")
    assert sent / 50e9 < gather.time_s < sent / (0.85 * 50e9)


def test_all_dense_products_are_the_model_s_own_flops(parts: tuple[PartTerm, ...]) -> None:
    """6 FLOPs a parameter and token: attention, router, shared expert, head; none of them runs again."""
    times = 12 / 6
    dense = sum(
        part.count * times * operator.flops
        for part in parts
        for one in part.passes
        for operator in one.operators
        if operator.kind == "gemm"
    )
    multiply_adds = 60 * (ATTENTION + 4096 * 32 + EXPERT) + 4096 * 65536
    tokens_per_gpu = 720 * 8192 / 1440
    assert dense == pytest.approx(6 * multiply_adds * tokens_per_gpu, rel=1e-9)


def test_what_the_running_executor_does_beside_collectives_is_told(large_configuration: TrainingConfiguration) -> None:
    """The state of a layer costs what its rows say, and rows that take more than one formula name all."""
    running = msgspec.structs.replace(large_configuration, runtime=load_runtime("meshwright-run"))
    layer = part_terms(running)[1]
    context = cost_context(running)
    cost = context.layer(running.model.layers[0], running.stages[0][0]).state
    reductions = [one for state in layer.state for one in state.collectives if one.kind == "gradients"]
    assert {one.collective for one in reductions} == {Collective.ALL_TO_ALL}
    assert all("memory.exchange_traffic_bytes" in one.formulas for one in reductions)
    assert sum(one.time_s for one in reductions) == pytest.approx(cost.grad_reduce_s)
    assert sum(state.update_s for state in layer.state) == pytest.approx(cost.optimizer_s)
    assert "memory.norm_traffic_bytes" in layer.state[0].update_formulas
    wgrad = next(op for one in layer.passes for op in one.operators if op.name == "experts_fc1.wgrad")
    assert "matmul.added_gradient_bytes" in wgrad.formulas
