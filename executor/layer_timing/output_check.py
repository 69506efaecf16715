"""The layer's output against the float32 reference, once before it is timed."""

from __future__ import annotations

import torch
from torch import Tensor

from meshwright.executor.layer.bindings.router import ROUTING
from meshwright.executor.layer.collectives import all_gather_rows
from meshwright.executor.layer.context import LayerContext
from meshwright.executor.layer.groups import Communicator
from meshwright.executor.layer.reference import ReferenceLayer
from meshwright.executor.layer.routing import EXPERTS
from meshwright.executor.layer.run import LayerRunner


def replica_ranks(layer: LayerContext) -> Communicator:
    """The ranks that share a micro-batch: tensor-parallel or Ulysses ranks."""
    return layer.groups.tensor if layer.groups.tensor.size > 1 else layer.groups.sequence


def own_tokens(x_TH: Tensor, layer: LayerContext) -> Tensor:
    """This rank's part of a micro-batch's tokens."""
    ranks = replica_ranks(layer)
    return x_TH.chunk(ranks.size)[ranks.rank].contiguous()


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
        experts = all_gather_rows(batch.scope.values.rider(ROUTING, EXPERTS, Tensor), replica_ranks(layer))
    del batch
    reference = ReferenceLayer(
        layer=layer.layer, weights=full_weights, micro_batch=layer.setting.micro_batch, routing=layer.routing
    )
    with torch.no_grad():
        expected = own_tokens(reference(hidden_TH, experts), layer) - own
    return float((added - expected).norm() / expected.norm())
