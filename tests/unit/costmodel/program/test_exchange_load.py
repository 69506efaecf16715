"""What a known load of the experts makes of a layer's program: b = 1, s = 1024, h = 512, 16 experts of 256, k = 2."""

from __future__ import annotations

import math

import pytest

from meshwright.costmodel.expert_load import EVEN, BusiestRank
from meshwright.costmodel.formulas.experts import expected_distinct_holders
from meshwright.costmodel.model import AttentionSpec, LayerSpec, MoeFfnSpec
from meshwright.costmodel.program.layer import build_layer
from meshwright.costmodel.program.operators import CollectiveWork, GroupedGemmWork, MemoryWork
from meshwright.costmodel.program.program import LayerProgram
from meshwright.costmodel.program.setting import ProgramSetting
from meshwright.costmodel.strategy import Dispatch, LayerStrategy

S, H, K, E, F = 1024, 512, 2, 16, 256
ROW = H * 2
UNEVEN = BusiestRank(rows=1.5, copies=1.3, node_copies=1.2)
CAPPED = BusiestRank(rows=1.5, copies=1.3, node_copies=1.2, most_copies=1.1, most_node_copies=9.0, capacity=1.25)


def _build(strategy: LayerStrategy, busiest: BusiestRank = EVEN, imbalance: float = 1.0) -> LayerProgram:
    attention = AttentionSpec(num_heads=8, num_kv_heads=8, head_dim=64, value_head_dim=64)
    setting = ProgramSetting(
        hidden=H,
        micro_batch=1,
        seq_len=S,
        strategy=strategy,
        gpus_per_node=8,
        expert_imbalance=imbalance,
        busiest=busiest,
    )
    moe = MoeFfnSpec(num_experts=E, top_k=K, intermediate=F)
    return build_layer(LayerSpec(attention=attention, ffn=moe), setting)


def _sent(program: LayerProgram, name: str) -> float:
    work = next(op.work for op in (*program.forward, *program.backward) if op.name == name)
    assert isinstance(work, CollectiveWork)
    return work.num_bytes


def _rows(program: LayerProgram) -> set[float]:
    return {op.work.rows for op in (*program.forward, *program.backward) if isinstance(op.work, GroupedGemmWork)}


def test_compute_exchange_and_memory_follow_the_busiest_rank() -> None:
    program = _build(LayerStrategy(ep=8), UNEVEN)
    assert _rows(program) == {1.5 * S * K}
    for name in ("dispatch", "combine", "combine.backward", "dispatch.backward"):
        assert _sent(program, name) == 1.5 * S * K * ROW
    sizes = program.sizes()
    assert sizes["ffn_in"] == sizes["dispatch_out"] == 1.5 * S * K * ROW
    assert sizes["dispatch_in"] == S * K * ROW  # what a rank sends out is as much as ever
    activation = next(op.work for op in program.forward if op.name == "experts_activation")
    assert isinstance(activation, MemoryWork)
    assert activation.write_bytes == 1.5 * S * K * F * 2


def test_what_is_assumed_beside_a_known_load() -> None:
    assert _build(LayerStrategy(ep=8), UNEVEN, imbalance=1.2) == _build(LayerStrategy(ep=8), UNEVEN)
    assert _rows(_build(LayerStrategy(ep=8), UNEVEN, imbalance=1.7)) == {1.7 * S * K}


def test_deduplicated_copies_are_less_uneven_than_rows() -> None:
    program = _build(LayerStrategy(ep=16, dispatch=Dispatch.ALL_TO_ALL_DEDUP), UNEVEN)
    to_nodes = expected_distinct_holders(E, K, 2) * S * ROW
    to_ranks = expected_distinct_holders(E, K, 16) * S * ROW
    assert _sent(program, "dispatch.network") == pytest.approx(1.2 * to_nodes)
    assert _sent(program, "dispatch.nvlink") == pytest.approx(1.3 * to_ranks)
    assert _rows(program) == {1.5 * S * K}
    assert program.sizes()["dispatch_out"] == pytest.approx(1.3 * to_ranks)


@pytest.mark.parametrize("strategy", [LayerStrategy(), LayerStrategy(ep=8), LayerStrategy(tp=4, etp=4)])
def test_a_capacity_fills_up_every_rank(strategy: LayerStrategy) -> None:
    even, capped = _build(strategy), _build(strategy, CAPPED, imbalance=3.0)
    assert _rows(capped) == {1.25 * rows for rows in _rows(even)}
    for name in ("ffn_in", "fc2_out", *(("dispatch_in", "dispatch_out") if strategy.ep * strategy.etp > 1 else ())):
        assert capped.sizes()[name] == 1.25 * even.sizes()[name]


def test_a_capacity_bounds_what_deduplicated_dispatch_brings() -> None:
    program = _build(LayerStrategy(ep=8, dispatch=Dispatch.ALL_TO_ALL_DEDUP), CAPPED)
    assert _sent(program, "dispatch") == pytest.approx(1.1 * expected_distinct_holders(E, K, 8) * S * ROW)


def test_gathering_brings_all_tokens_whatever_the_load() -> None:
    strategy = LayerStrategy(sp=4, ep=8, dispatch=Dispatch.ALL_GATHER)
    assert _sent(_build(strategy, UNEVEN), "dispatch") == _sent(_build(strategy), "dispatch")
    assert _rows(_build(strategy, UNEVEN)) == {1.5 * S / 4 * K}


def test_the_default_is_even() -> None:
    assert BusiestRank() == EVEN
    assert math.isinf(EVEN.capacity)
    assert EVEN.filled == 1.0
