"""The layer's output against the float32 reference, once before it is timed."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from meshwright.executor.layer.bindings.router import ROUTING
from meshwright.executor.layer.collectives import all_gather_rows
from meshwright.executor.layer.context import LayerContext
from meshwright.executor.layer.groups import Communicator, LayerGroups
from meshwright.executor.layer.position import own_positions
from meshwright.executor.layer.reference import ReferenceLayer
from meshwright.executor.layer.routing import EXPERTS
from meshwright.executor.layer.run import LayerRunner


def replica_ranks(layer: LayerContext) -> Communicator:
    """The ranks that share a micro-batch: tensor-, context-parallel or Ulysses ranks, only one of which are several."""
    groups = layer.groups
    return max((groups.tensor, groups.sequence, groups.context), key=lambda ranks: ranks.size)


def own_tokens(x_TH: Tensor, layer: LayerContext) -> Tensor:
    """This rank's part of a micro-batch's tokens."""
    return x_TH.index_select(0, _own_rows(layer, layer.groups))


def all_tokens(own_TH: Tensor, layer: LayerContext) -> Tensor:
    """The tokens of a micro-batch, each at its place, from the parts of the ranks that share it."""
    ranks = replica_ranks(layer)
    gathered = all_gather_rows(own_TH, ranks)
    others = (_groups_of(layer.groups, rank) for rank in range(ranks.size))
    places = torch.cat([_own_rows(layer, groups) for groups in others])
    return torch.empty_like(gathered).index_copy_(0, places, gathered)


def _groups_of(groups: LayerGroups, rank: int) -> LayerGroups:
    """The groups of another rank of the replica."""
    axes = ("tensor", "sequence", "context")
    shared = (axis for axis in axes if getattr(groups, axis).size > 1)
    return replace(groups, **{axis: replace(getattr(groups, axis), rank=rank) for axis in shared})


def _own_rows(layer: LayerContext, groups: LayerGroups) -> Tensor:
    """Where a rank's tokens stand among those of the micro-batch."""
    setting, tensor = layer.setting, groups.tensor
    members = torch.arange(setting.micro_batch, device=layer.device)
    positions = own_positions(setting.seq_len, groups, layer.device)
    rows = (positions.unsqueeze(1) * setting.micro_batch + members).flatten()
    return rows.chunk(tensor.size)[tensor.rank]


def output_error(runner: LayerRunner, hidden_TH: Tensor, full_weights: dict[str, Tensor]) -> float:
    """Relative error of what the layer adds to its input. The reference goes by the experts that the run chose.

    `hidden_TH`: all tokens of the micro-batch.
    """
    layer = runner.layer
    batch = runner.start(own_tokens(hidden_TH, layer))
    batch.run(runner.forward)
    own = own_tokens(hidden_TH, layer).float()
    added = batch.output.float() - own
    experts = None
    if layer.layer.is_moe:
        experts = all_tokens(batch.scope.values.rider(ROUTING, EXPERTS, Tensor), layer)
    del batch
    reference = ReferenceLayer(
        layer=layer.layer, weights=full_weights, micro_batch=layer.setting.micro_batch, routing=layer.routing
    )
    with torch.no_grad():
        expected = own_tokens(reference(hidden_TH, experts), layer) - own
    return float((added - expected).norm() / expected.norm())
