"""Meshes are cut as far as the shapes on a rank stay."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from meshwright.costmodel.errors import PlanError
from meshwright.costmodel.model import MoeFfnSpec
from meshwright.costmodel.presets import load_model
from meshwright.costmodel.strategy import LayerStrategy, Mesh
from meshwright.executor.emulate.cut import cut_layer, cut_mesh, cut_strategy


@pytest.mark.parametrize(
    ("mesh", "num_ranks", "cut"),
    [
        (Mesh(pp=4, dp=8), 2, Mesh(dp=2)),
        (Mesh(pp=4, dp=2, tp=4), 8, Mesh(dp=2, tp=4)),
        (Mesh(pp=2, dp=8, ep=8), 8, Mesh(dp=8, ep=8)),
        (Mesh(pp=2, dp=64, ep=8), 8, Mesh(dp=8, ep=8)),
        (Mesh(dp=8, ep=8), 2, Mesh(dp=2, ep=2)),
        (Mesh(dp=8, ep=4), 7, Mesh(dp=4, ep=4)),  # all of ep rather than more replicas
        (Mesh(dp=4, sp=4, ep=16), 8, Mesh(dp=2, sp=4, ep=8)),
        (Mesh(dp=8, ep=2, etp=2), 3, Mesh(dp=2, etp=2)),
    ],
)
def test_as_much_as_fits(mesh: Mesh, num_ranks: int, cut: Mesh) -> None:
    assert cut_mesh(mesh, num_ranks, "plan.json") == cut


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        (Mesh(tp=4, dp=2), "tp 4 x sp 1 x cp 1 = 4 ranks share a micro-batch, here are 2"),
        (Mesh(dp=8, etp=4), "1 ranks share a micro-batch, etp 4 ranks an expert, here are 2"),
    ],
)
def test_what_has_other_shapes_on_fewer_ranks_is_refused(mesh: Mesh, message: str) -> None:
    with pytest.raises(PlanError, match=f"^plan.json: mesh: --emulate: .*{message}"):
        cut_mesh(mesh, 2, "plan.json")


def test_a_rank_has_as_many_experts_as_before() -> None:
    layer = load_model("deepseek-v3").layers[-1]
    cut = cut_layer(layer, Mesh(dp=64, ep=64), Mesh(dp=8, ep=8), "plan.json").ffn
    assert isinstance(cut, MoeFfnSpec)
    assert (cut.num_experts, cut.top_k, cut.num_expert_groups) == (32, 8, 1)
    assert cut_layer(layer, Mesh(dp=64, ep=8), Mesh(dp=8, ep=8), "plan.json") is layer
    assert cut_strategy(LayerStrategy(ep=64), Mesh(dp=8, ep=8)) == LayerStrategy(ep=8)
    assert cut_strategy(LayerStrategy(), Mesh(dp=8, ep=8)) == LayerStrategy()


def test_a_dense_layer_stays() -> None:
    layer = load_model("deepseek-v3").layers[0]
    assert cut_layer(layer, Mesh(dp=64, ep=64), Mesh(dp=8, ep=8), "plan.json") is layer


def test_too_few_experts_for_a_token_are_refused() -> None:
    layer = load_model("mixtral-8x7b").layers[0]
    with pytest.raises(PlanError, match="ep 8 cut to 1 leaves 1 of 8 experts, a token takes 2: needs 2 ranks"):
        cut_layer(layer, Mesh(dp=8, ep=8), Mesh(), "plan.json")
    eight_of_sixteen = replace(layer, ffn=replace(layer.ffn, num_experts=16, top_k=8))
    with pytest.raises(PlanError, match="needs 4 ranks"):
        cut_layer(eight_of_sixteen, Mesh(dp=8, ep=8), Mesh(dp=2, ep=2), "plan.json")
