"""The slow truth of a model: one device, whole weights, plain PyTorch that autograd differentiates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from meshwright.costmodel.model import ModelSpec
from meshwright.executor.layer.reference import ReferenceLayer

EPSILON = 1e-6


@dataclass(frozen=True, kw_only=True)
class ReferenceModel:
    """A model with weights by the names of `model.end_parameters`, computed in the format `wide`."""

    model: ModelSpec
    weights: Mapping[str, Tensor]
    wide: torch.dtype

    def loss(self, tokens_BS: Tensor) -> Tensor:
        """The mean loss of all tokens but the first of each sequence, (B, S + 1)."""
        inputs, labels = tokens_BS[:, :-1].t(), tokens_BS[:, 1:].t()
        hidden = F.embedding(inputs.flatten(), self.weights["embedding"]).to(self.wide)
        for index in range(self.model.num_layers):
            hidden = self._layer(index, tokens_BS.shape[0])(hidden)
        norm = self._final_norm(hidden)
        head = self.weights["embedding" if self.model.tied_embeddings else "head"]
        return F.cross_entropy(F.linear(norm, head, self.weights.get("head.bias")), labels.flatten())

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
            norm_epsilon=EPSILON,
            wide=self.wide,
        )
