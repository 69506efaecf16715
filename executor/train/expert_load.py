"""How evenly tokens go to experts: choices counted by layer and expert over the micro-batches of a step."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from meshwright.executor.layer.collectives import all_reduce
from meshwright.executor.layer.groups import Communicator


class ExpertLoad:
    """The choices of this rank's tokens, added up on the device without waiting for it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._counts: dict[str, Tensor] = {}

    def count(self, layer: str, num_experts: int, experts_TK: Tensor) -> None:
        """Add a layer's choices."""
        if layer not in self._counts:
            self._counts[layer] = torch.zeros(num_experts, dtype=torch.int64, device=self._device)
        chosen = experts_TK.flatten().to(torch.int64)
        self._counts[layer].scatter_add_(0, chosen, torch.ones_like(chosen))

    def restart(self) -> None:
        """Forget what was counted."""
        for counts in self._counts.values():
            counts.zero_()

    def greatest(self, stage: Communicator) -> Tensor:
        """Load of the busiest expert over the mean, of the worst layer of a stage; 0 without experts. A collective."""
        if not self._counts:
            return torch.zeros((), dtype=torch.float64, device=self._device)
        widest = max(len(counts) for counts in self._counts.values())
        own = torch.stack([pad(counts, (0, widest - len(counts))) for counts in self._counts.values()])
        total = all_reduce(own, stage).to(torch.float64)
        num_experts = torch.tensor([len(counts) for counts in self._counts.values()], device=self._device)
        return (total.amax(1) * num_experts / total.sum(1).clamp_min(1.0)).amax()
