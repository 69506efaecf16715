"""What is trained on: how many sequences a step, how long, in which number format, how evenly routed."""

from __future__ import annotations

import math

from msgspec import UNSET, UnsetType

from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.expert_load import ExpertLoad
from meshwright.costmodel.program.operators import Precision
from meshwright.costmodel.value import Value

MAX_SEQ_LEN = 2**24
"""Half as long again as the longest context that a model of the presets claims (10 M tokens, Llama 4 Scout)."""


class Workload(Value, frozen=True, kw_only=True):
    """One training step: `global_batch` sequences of `seq_len` tokens.

    `expert_imbalance` is the load of the busiest expert-parallel rank over the mean, where it is known to be more than
    the runtime's own assumption (1: not known). `expert_load` is how popular each expert is, where that is known: the
    busiest rank then has what follows from it, or `expert_imbalance`, or the runtime's assumption, whichever is most.
    `capacity_factor` bounds and fills up the rows of each expert (unset: dropless). Unset fields are left out of files.
    """

    global_batch: int
    seq_len: int
    precision: Precision = Precision.BF16
    expert_imbalance: float = 1.0
    expert_load: ExpertLoad | UnsetType = UNSET
    capacity_factor: float | UnsetType = UNSET

    def __post_init__(self) -> None:
        for name in ("global_batch", "seq_len"):
            if getattr(self, name) < 1:
                raise StrategyError("workload", name, f"{getattr(self, name)} is not a positive whole number")
        if self.seq_len > MAX_SEQ_LEN:
            raise StrategyError("workload", "seq_len", f"{self.seq_len:,} tokens are over the limit of {MAX_SEQ_LEN:,}")
        if not (math.isfinite(self.expert_imbalance) and self.expert_imbalance >= 1.0):
            raise StrategyError("workload", "expert_imbalance", f"{self.expert_imbalance} is not a number >= 1")
        if self.capacity_factor is not UNSET and not (math.isfinite(self.capacity_factor) and self.capacity_factor > 0):
            raise StrategyError("workload", "capacity_factor", f"{self.capacity_factor} is not a positive number")

    @property
    def tokens(self) -> int:
        """Tokens a step."""
        return self.global_batch * self.seq_len

    @property
    def known_load(self) -> ExpertLoad | None:
        """How popular each expert is; None: balanced, apart from what the runtime assumes."""
        return None if self.expert_load is UNSET else self.expert_load

    @property
    def capacity(self) -> float:
        """The capacity factor, infinite where nothing is dropped."""
        return math.inf if self.capacity_factor is UNSET else self.capacity_factor

    @property
    def routes_evenly(self) -> bool:
        """Whether neither a load nor a capacity is given."""
        return self.expert_load is UNSET and self.capacity_factor is UNSET
