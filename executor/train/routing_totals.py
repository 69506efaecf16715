"""What routing has shown in a step, added up on the device over micro-batches and layers without waiting for it."""

from __future__ import annotations

import torch

from meshwright.executor.layer.bindings.router import RoutingReport
from meshwright.executor.train.expert_load import ExpertLoad


class RoutingTotals:
    """`load`: how often experts were chosen. `sums`: this rank's parts of the losses of even loads and of z, and how
    many choices were dropped.
    """

    def __init__(self, device: torch.device) -> None:
        self.load = ExpertLoad(device)
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)

    def add(self, layer: str, report: RoutingReport) -> None:
        """Add what a layer's router did with a micro-batch."""
        self.load.count(layer, report.num_experts, report.experts_TK)
        for place, part in enumerate((report.even, report.z, report.dropped)):
            if part is not None:
                self.sums[place] += part

    def restart(self) -> None:
        """Forget what was added up."""
        self.load.restart()
        self.sums.zero_()
