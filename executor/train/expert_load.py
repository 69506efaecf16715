"""How evenly tokens go to experts: choices counted by layer and expert over the micro-batches of a step."""

from __future__ import annotations

from collections.abc import Mapping

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

    def totals(self, stage: Communicator) -> dict[str, Tensor]:
        """Choices of the tokens of all ranks of a stage, int64, (E,), by layer. A collective."""
        if not self._counts:
            return {}
        widest = max(len(counts) for counts in self._counts.values())
        own = torch.stack([pad(counts, (0, widest - len(counts))) for counts in self._counts.values()])
        rows = all_reduce(own, stage).unbind()
        return {layer: row[: len(counts)] for (layer, counts), row in zip(self._counts.items(), rows, strict=True)}

    def greatest(self, totals: Mapping[str, Tensor]) -> Tensor:
        """Load of the busiest expert over the mean, of the worst layer; 0 without experts."""
        loads = [counts.amax() * len(counts) / counts.sum().clamp_min(1) for counts in totals.values()]
        zero = torch.zeros((), dtype=torch.float64, device=self._device)
        return torch.stack([zero, *(load.to(torch.float64) for load in loads)]).amax()
