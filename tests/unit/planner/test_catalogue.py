from __future__ import annotations

import pytest

from meshwright.costmodel.model import AttentionSpec, DenseFfnSpec, LayerSpec, MoeFfnSpec
from meshwright.costmodel.program.operators import Precision
from meshwright.costmodel.strategy import ContextMethod, Dispatch, LayerStrategy, Recompute
from meshwright.planner.catalogue import layer_strategies, offloads, recompute_policies
from meshwright.planner.fixes import OFFLOADING, OffloadChoice, parse_fixes
from meshwright.planner.space import LayerShape

GPUS_PER_NODE = 8
ATTENTION = AttentionSpec(num_heads=32, num_kv_heads=4, head_dim=128, value_head_dim=128)
DENSE = LayerSpec(attention=ATTENTION, ffn=DenseFfnSpec(intermediate=8192))
MOE = LayerSpec(attention=ATTENTION, ffn=MoeFfnSpec(num_experts=16, top_k=2, intermediate=4096))
SHARED = LayerSpec(
    attention=ATTENTION, ffn=MoeFfnSpec(num_experts=16, top_k=2, intermediate=4096, shared_intermediate=2048)
)


def _shape(group: int = 4, cp: int = 1, ep: int = 1, etp: int = 1) -> LayerShape:
    return LayerShape(group=group, cp=cp, ep=ep, etp=etp, micro_batch=1)


def _strategies(
    layer: LayerSpec, shape: LayerShape, *fixes: str, precision: Precision = Precision.BF16
) -> tuple[LayerStrategy, ...]:
    return layer_strategies(layer, shape, parse_fixes(fixes), precision, GPUS_PER_NODE)


def _splits(layer: LayerSpec, shape: LayerShape, *fixes: str) -> set[tuple[int, int]]:
    return {(strategy.tp, strategy.sp) for strategy in _strategies(layer, shape, *fixes)}


@pytest.mark.parametrize("layer", [DENSE, MOE, SHARED])
@pytest.mark.parametrize("shape", [_shape(), _shape(cp=2), _shape(ep=8), _shape(ep=2, etp=2), _shape(group=1, ep=4)])
def test_strategies_fill_their_shape_and_are_distinct(layer: LayerSpec, shape: LayerShape) -> None:
    strategies = _strategies(layer, shape)
    assert strategies
    assert len(set(strategies)) == len(strategies)
    for strategy in strategies:
        assert strategy.tp * strategy.sp == shape.group
        assert strategy.cp == shape.cp
        assert strategy.recompute is Recompute.NONE
        assert (strategy.ep, strategy.etp) == ((shape.ep, shape.etp) if layer.is_moe else (1, 1))


def test_the_group_is_all_tp_or_all_sp_or_the_pinned_mix() -> None:
    assert _splits(DENSE, _shape(group=8)) == {(1, 8), (8, 1)}
    assert _splits(DENSE, _shape(group=8), "tp=2") == {(2, 4)}
    assert _splits(DENSE, _shape(group=8), "sp=8") == {(1, 8)}
    assert _splits(DENSE, _shape(group=8), "attention=tp") == {(8, 1)}
    assert _splits(DENSE, _shape(group=8), "attention=ulysses") == {(1, 8)}


def test_key_value_heads_must_divide_or_be_copied_evenly() -> None:
    attention = AttentionSpec(num_heads=24, num_kv_heads=6, head_dim=64, value_head_dim=64)
    six = LayerSpec(attention=attention, ffn=DenseFfnSpec(intermediate=12288))
    assert _splits(six, _shape(group=3)) == {(1, 3), (3, 1)}
    assert _splits(six, _shape(group=12)) == {(1, 12), (12, 1)}
    assert _splits(six, _shape(group=4)) == set()


def test_context_parallelism_rings_or_gathers() -> None:
    def methods(*fixes: str) -> set[ContextMethod]:
        return {strategy.context_method for strategy in _strategies(DENSE, _shape(cp=2), *fixes)}

    assert methods() == {ContextMethod.RING, ContextMethod.ALL_GATHER}
    assert methods("attention=cp-ring") == {ContextMethod.RING}
    assert methods("attention=cp-allgather") == {ContextMethod.ALL_GATHER}


@pytest.mark.parametrize(
    ("shape", "fixes", "expected"),
    [
        (_shape(ep=4), (), {Dispatch.ALL_TO_ALL_DEDUP, Dispatch.ALL_GATHER}),
        (_shape(ep=8), (), {Dispatch.ALL_TO_ALL_DEDUP, Dispatch.ALL_GATHER}),
        (_shape(ep=16), (), set(Dispatch)),
        (_shape(ep=8, etp=2), (), set(Dispatch)),
        (_shape(ep=4), ("dispatch=alltoall",), {Dispatch.ALL_TO_ALL}),
        (_shape(ep=1, etp=2), (), {Dispatch.ALL_GATHER}),
        (_shape(ep=1), (), {Dispatch.ALL_TO_ALL}),
    ],
)
def test_how_tokens_reach_their_experts(shape: LayerShape, fixes: tuple[str, ...], expected: set[Dispatch]) -> None:
    assert {strategy.dispatch for strategy in _strategies(MOE, shape, *fixes)} == expected


def test_a_dense_layer_has_nothing_to_dispatch() -> None:
    assert {strategy.dispatch for strategy in _strategies(DENSE, _shape(ep=4), "dispatch=allgather")} == {
        Dispatch.ALL_TO_ALL
    }


def test_dense_weights_are_split_over_tp_or_all_of_a_ulysses_group() -> None:
    ulysses = _strategies(DENSE, _shape(), "attention=ulysses")
    assert {strategy.ffn_tp for strategy in ulysses} == {1, 4}
    assert {strategy.ffn_tp for strategy in _strategies(DENSE, _shape(), "attention=tp")} == {4}
    assert {strategy.ffn_tp for strategy in _strategies(DENSE, _shape(), "ffn=tp")} == {4}
    assert {strategy.ffn_tp for strategy in _strategies(DENSE, _shape(), "ffn=replicated")} == {1}
    assert {strategy.ffn_tp for strategy in _strategies(SHARED, _shape(ep=4), "attention=ulysses")} == {1, 4}
    assert {strategy.ffn_tp for strategy in _strategies(MOE, _shape(ep=4), "attention=ulysses")} == {1}


def test_activations_travel_in_fp8_only_where_training_is_in_fp8() -> None:
    def formats(shape: LayerShape, precision: Precision) -> set[Precision]:
        return {strategy.communication for strategy in _strategies(MOE, shape, precision=precision)}

    assert formats(_shape(ep=4), Precision.BF16) == {Precision.BF16}
    assert formats(_shape(ep=4), Precision.FP8) == {Precision.BF16, Precision.FP8}
    assert formats(_shape(group=1), Precision.FP8) == {Precision.BF16}


def test_a_pinned_format_on_the_wire_is_the_only_one() -> None:
    for pinned in Precision:
        strategies = _strategies(MOE, _shape(ep=4), f"wire={pinned}")
        assert {strategy.communication for strategy in strategies} == {pinned}
    assert {one.communication for one in _strategies(MOE, _shape(group=1), "wire=fp8")} == {Precision.BF16}


def test_recomputation_is_free_or_pinned() -> None:
    assert set(recompute_policies(parse_fixes(()))) == set(Recompute) - {Recompute.EVERY_SECOND_GEMM}
    assert recompute_policies(parse_fixes(("recompute=sar",))) == (Recompute.SELECTIVE,)


def test_offload_stands_beside_keeping_or_sar() -> None:
    free, pinned = parse_fixes(()), parse_fixes(("recompute=none",))
    assert {policy for policy in Recompute if True in offloads(policy, free)} == {Recompute.NONE, Recompute.SELECTIVE}
    assert offloads(Recompute.NONE, pinned) == (False, True), "what is recomputed says nothing of where the rest waits"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {(policy, offload) for policy in OFFLOADING for offload in (False, True)}),
        ("offload=none", {(policy, False) for policy in OFFLOADING}),
        ("offload=optimizer", {(policy, False) for policy in OFFLOADING}),
        ("offload=activations", {(policy, True) for policy in OFFLOADING}),
        ("offload=activations,recompute=none", {(policy, True) for policy in OFFLOADING}),
        ("recompute=none", {(policy, offload) for policy in OFFLOADING for offload in (False, True)}),
    ],
)
def test_what_waits_in_host_memory(text: str, expected: set[tuple[Recompute, bool]]) -> None:
    fixes = parse_fixes((text,) if text else ())
    assert {(policy, offload) for policy in OFFLOADING for offload in offloads(policy, fixes)} == expected
    pinned = fixes.offload is OffloadChoice.ACTIVATIONS
    assert offloads(Recompute.FULL, fixes) == (() if pinned else (False,))
