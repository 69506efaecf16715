"""How far a plan's mesh is cut to so many ranks: pp to one stage, dp, and, where it must be, ep with its experts.

Never cut: tp, sp, cp, etp and the micro-batch, so that attention and dense FFNs have the plan's shapes and collectives;
and the experts of a rank, so that theirs do.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import gcd

import msgspec

from meshwright.costmodel.errors import PlanError
from meshwright.costmodel.model import LayerSpec, MoeFfnSpec
from meshwright.costmodel.strategy import LayerStrategy, Mesh


def cut_mesh(mesh: Mesh, num_ranks: int, where: str) -> Mesh:
    """The mesh with as much of ep and then of dp as so many ranks hold; raises `PlanError` where no replica fits."""
    replica, candidates = mesh.replica_gpus, list(_meshes(mesh, num_ranks))
    if not candidates:
        experts = f", etp {mesh.etp} ranks an expert" if mesh.etp > 1 else ""
        raise PlanError(
            where,
            "mesh",
            f"--emulate: tp {mesh.tp} x sp {mesh.sp} x cp {mesh.cp} = {replica} ranks share a micro-batch{experts},"
            f" here are {num_ranks}: a layer on fewer ranks would have other shapes",
        )
    return max(candidates, key=lambda one: (one.ep, one.dp))


def _meshes(mesh: Mesh, num_ranks: int) -> Iterator[Mesh]:
    for dp in range(1, min(mesh.dp, num_ranks // mesh.replica_gpus) + 1):
        ranks = dp * mesh.replica_gpus
        if ranks % mesh.etp == 0:
            ep = gcd(mesh.ep, ranks // mesh.etp)
            yield Mesh(dp=dp, tp=mesh.tp, sp=mesh.sp, cp=mesh.cp, ep=ep, etp=mesh.etp)


def cut_layer(layer: LayerSpec, full: Mesh, cut: Mesh, where: str) -> LayerSpec:
    """The layer with as many experts as `cut` has ranks for, as many a rank as before; routed without groups if cut."""
    if full.ep == cut.ep or not isinstance(layer.ffn, MoeFfnSpec):
        return layer
    ffn = layer.ffn
    num_experts = ffn.num_experts * cut.ep // full.ep
    if ffn.top_k > num_experts:
        raise PlanError(
            where,
            "mesh.ep",
            f"--emulate: ep {full.ep} cut to {cut.ep} leaves {num_experts} of {ffn.num_experts} experts, a token takes"
            f" {ffn.top_k}: needs {-(-ffn.top_k * full.ep // ffn.num_experts)} ranks of experts",
        )
    cut_ffn = msgspec.structs.replace(ffn, num_experts=num_experts, num_expert_groups=1, groups_per_token=1)
    return msgspec.structs.replace(layer, ffn=cut_ffn)


def cut_strategy(strategy: LayerStrategy, cut: Mesh) -> LayerStrategy:
    """The strategy over the experts' ranks that there are."""
    return msgspec.structs.replace(strategy, ep=cut.ep) if strategy.ep > 1 else strategy
