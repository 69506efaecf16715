from __future__ import annotations

import pytest
from msgspec.structs import replace

from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.model import LayerSpec
from meshwright.costmodel.presets import load_model
from meshwright.costmodel.strategy import ContextMethod, Dispatch, LayerStrategy, Mesh, Recompute
from meshwright.planner.fixes import AttentionChoice
from meshwright.planner.held.strategies import attention_degrees, attention_of, held_strategy

DENSE, MOE = load_model("deepseek-v3").layer_types
MESH = Mesh(dp=8, sp=8, ep=16)
ULYSSES, MEGATRON = LayerStrategy(sp=8, ep=16), LayerStrategy(tp=8, ffn_tp=8, ep=16)


@pytest.mark.parametrize("layer", [DENSE, MOE])
def test_the_same_mesh_changes_nothing(layer: LayerSpec) -> None:
    assert held_strategy(ULYSSES, layer, MESH, MESH, {}) is ULYSSES


def test_a_layer_that_splits_as_the_mesh_follows_it() -> None:
    after = Mesh(dp=16, tp=2, sp=2, ep=16)
    assert held_strategy(ULYSSES, MOE, MESH, after, {}) == replace(ULYSSES, tp=2, sp=2, ffn_tp=2)


def test_a_layer_that_splits_otherwise_keeps_its_way() -> None:
    after = Mesh(dp=16, sp=4, ep=16)
    assert held_strategy(MEGATRON, MOE, MESH, after, {}) == replace(MEGATRON, tp=4, ffn_tp=4)


@pytest.mark.parametrize(("ffn_tp", "now"), [(1, 1), (8, 4)])
def test_dense_weights_stay_split_over_the_group_or_whole(ffn_tp: int, now: int) -> None:
    changed = held_strategy(replace(ULYSSES, ffn_tp=ffn_tp), DENSE, MESH, Mesh(dp=16, sp=4, ep=16), {})
    assert (changed.tp, changed.sp, changed.ffn_tp) == (1, 4, now)


def test_experts_follow_the_mesh_where_there_are_some() -> None:
    after = replace(MESH, ep=8, etp=2)
    assert (held_strategy(ULYSSES, MOE, MESH, after, {}).ep, held_strategy(ULYSSES, MOE, MESH, after, {}).etp) == (8, 2)
    assert held_strategy(ULYSSES, DENSE, MESH, after, {}) is ULYSSES


def test_fields_are_set_where_they_mean_something() -> None:
    given = {"dispatch": Dispatch.ALL_GATHER, "recompute": Recompute.FULL}
    assert held_strategy(ULYSSES, MOE, MESH, MESH, given).dispatch is Dispatch.ALL_GATHER
    assert held_strategy(ULYSSES, DENSE, MESH, MESH, given) == replace(ULYSSES, recompute=Recompute.FULL)


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        (ULYSSES, "ulysses"),
        (MEGATRON, "tp"),
        (LayerStrategy(), "dp"),
        (LayerStrategy(tp=2, sp=2), "mixed"),
        (LayerStrategy(cp=2), "cp-allgather"),
        (LayerStrategy(cp=2, context_method=ContextMethod.RING), "cp-ring"),
    ],
)
def test_how_attention_is_shared_has_a_name(strategy: LayerStrategy, words: str) -> None:
    assert attention_of(strategy) == words


def test_attention_can_be_shared_in_the_other_way() -> None:
    assert attention_degrees(MESH, AttentionChoice.TENSOR) == {"tp": 8, "sp": 1}
    after = replace(MESH, tp=8, sp=1)
    given = {"attention": AttentionChoice.TENSOR}
    assert attention_of(held_strategy(ULYSSES, MOE, after, after, given)) == "tp"
    assert held_strategy(MEGATRON, MOE, after, after, given) == MEGATRON


@pytest.mark.parametrize(
    ("choice", "message"),
    [(AttentionChoice.RING, "the mesh has cp 1; set mesh.cp"), (AttentionChoice.DATA, "the mesh has tp 1 x sp 8")],
)
def test_what_the_mesh_forbids_is_refused(choice: AttentionChoice, message: str) -> None:
    with pytest.raises(StrategyError, match=message):
        attention_degrees(MESH, choice)
