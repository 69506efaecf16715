"""The slow truth of what routers are trained for beside the loss of tokens: plain PyTorch, for autograd."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from meshwright.costmodel.model import MoeFfnSpec, RouterScore
from meshwright.executor.layer.router_losses import LossScope, RouterLosses


@dataclass(frozen=True, kw_only=True)
class ReferenceRouting:
    """What a layer's router did with whole sequences, side by side: logits (T, E), experts (T, K), and which of them
    were not dropped (T, K).
    """

    moe: MoeFfnSpec
    micro_batch: int
    logits: Tensor
    experts: Tensor
    kept: Tensor

    @property
    def counts(self) -> Tensor:
        """How often each expert was chosen, (E,)."""
        return torch.bincount(self.experts.flatten(), minlength=self.moe.num_experts)

    @property
    def load(self) -> Tensor:
        """How often each expert was chosen over the mean, (E,)."""
        return self.counts * self.moe.num_experts / self.experts.numel()

    def even_loss(self, losses: RouterLosses, load_before: Tensor | None, num_devices: int) -> Tensor:
        """The mean over tokens, weighted with its coefficient."""
        scores = torch.sigmoid(self.logits) if self.moe.score is RouterScore.SIGMOID else torch.softmax(self.logits, 1)
        shares = scores / scores.sum(1, keepdim=True)
        if losses.scope is LossScope.PER_BATCH:
            assert load_before is not None
            return losses.even * (shares.mean(0) * load_before).sum()
        parties = num_devices if losses.scope is LossScope.PER_DEVICE else self.moe.num_experts
        parts = [
            self._of_sequence(shares[member :: self.micro_batch], self.experts[member :: self.micro_batch], parties)
            for member in range(self.micro_batch)
        ]
        return losses.even * torch.stack(parts).mean()

    def _of_sequence(self, shares_SE: Tensor, experts_SK: Tensor, num_parties: int) -> Tensor:
        """The mean f of each party's experts times the sum of their mean shares."""
        one_hot = F.one_hot(experts_SK, self.moe.num_experts).to(shares_SE.dtype)
        frequency = self.moe.num_experts / self.moe.top_k * one_hot.sum(1).mean(0)
        return (frequency.view(num_parties, -1).mean(1) * shares_SE.mean(0).view(num_parties, -1).sum(1)).sum()

    def z_loss(self, losses: RouterLosses) -> Tensor:
        """The mean over tokens, weighted with its coefficient."""
        return losses.z * torch.log(torch.exp(self.logits).sum(1)).pow(2).mean()
