"""What is trained on: how many sequences a step, how long, in which number format, how evenly routed."""

from __future__ import annotations

import math

from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.program.operators import Precision
from meshwright.costmodel.value import Value


class Workload(Value, frozen=True, kw_only=True):
    """One training step: `global_batch` sequences of `seq_len` tokens.

    `expert_imbalance` is the load of the busiest expert-parallel rank over the mean, where it is known to be more than
    the runtime's own assumption (1: not known).
    """

    global_batch: int
    seq_len: int
    precision: Precision = Precision.BF16
    expert_imbalance: float = 1.0

    def __post_init__(self) -> None:
        for name in ("global_batch", "seq_len"):
            if getattr(self, name) < 1:
                raise StrategyError("workload", name, f"{getattr(self, name)} is not a positive whole number")
        if not (math.isfinite(self.expert_imbalance) and self.expert_imbalance >= 1.0):
            raise StrategyError("workload", "expert_imbalance", f"{self.expert_imbalance} is not a number >= 1")

    @property
    def tokens(self) -> int:
        """Tokens a step."""
        return self.global_batch * self.seq_len
