"""Which keys a query sees."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Mask:
    """`causal`: query i sees keys 0 to i, for as many keys as queries; else all keys."""

    causal: bool = True

    def hidden(self, num_queries: int, num_keys: int, device: torch.device) -> Tensor | None:
        """True where a query does not see a key, (queries, keys); None where it sees all."""
        if not self.causal:
            return None
        return torch.ones(num_queries, num_keys, dtype=torch.bool, device=device).triu(1)


CAUSAL = Mask()
ALL = Mask(causal=False)
