"""The slow truth of a model: one device, whole weights, plain PyTorch that autograd differentiates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from meshwright.costmodel.model import ModelSpec
from meshwright.executor.layer.reference import ReferenceLayer
from meshwright.executor.layer.reference_losses import ReferenceRouting

EPSILON = 1e-6


@dataclass(frozen=True, kw_only=True)
class ReferenceLoss:
    """The mean loss of all tokens, and what the routers of MoE layers did, by the number of the layer."""

    tokens: Tensor
    routings: Mapping[int, ReferenceRouting]


@dataclass(frozen=True, kw_only=True)
class ReferenceModel:
    """A model with weights by the names of `model.end_parameters`, computed in the format `wide`."""

    model: ModelSpec
    weights: Mapping[str, Tensor]
    wide: torch.dtype
    capacity_factor: float = math.inf

    def loss(self, tokens_BS: Tensor) -> ReferenceLoss:
        """The loss of all tokens but the first of each sequence, (B, S + 1)."""
        inputs, labels = tokens_BS[:, :-1].t(), tokens_BS[:, 1:].t()
        hidden = F.embedding(inputs.flatten(), self.weights["embedding"]).to(self.wide)
        routings: dict[int, ReferenceRouting] = {}
        for index in range(self.model.num_layers):
            layer = self._layer(index, tokens_BS.shape[0])
            hidden = layer(hidden)
            routings.update((index, routing) for routing in layer.seen)
        norm = self._final_norm(hidden)
        head = self.weights["embedding" if self.model.tied_embeddings else "head"]
        logits = F.linear(norm, head, self.weights.get("head.bias"))
        return ReferenceLoss(tokens=F.cross_entropy(logits, labels.flatten()), routings=routings)

    def _final_norm(self, hidden_TH: Tensor) -> Tensor:
        weight, bias = self.weights["final_norm"], self.weights.get("final_norm.bias")
        if bias is not None:
            return F.layer_norm(hidden_TH, weight.shape, weight, bias, EPSILON)
        return F.rms_norm(hidden_TH, weight.shape, weight, EPSILON)

    def _layer(self, index: int, micro_batch: int) -> ReferenceLayer:
        prefix = f"layers.{index}."
        return ReferenceLayer(
            layer=self.model.layers[index],
            weights={
                name.removeprefix(prefix): weight for name, weight in self.weights.items() if name.startswith(prefix)
            },
            micro_batch=micro_batch,
            capacity_factor=self.capacity_factor,
            norm_epsilon=EPSILON,
            wide=self.wide,
        )
