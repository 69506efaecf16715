"""Shape classes that every kernel is checked with: small, and awkward on purpose."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import torch
from torch import Tensor

from meshwright.costmodel.model import RouterScore
from meshwright.costmodel.value import Value
from meshwright.kernels.index.contract import RowMap
from meshwright.kernels.index.reference import index_reference
from meshwright.kernels.route.contract import RouteOptions


class Load(StrEnum):
    """Where tokens go. NATURAL: to random experts. ONE: all to one and its neighbours. FEW: to the first quarter."""

    NATURAL = "natural"
    ONE = "one"
    FEW = "few"


class Case(Value, frozen=True, kw_only=True):
    """One shape class. `here`: experts on this rank, from `first` on; all where 0."""

    name: str
    tokens: int
    experts: int
    top_k: int
    hidden: int
    intermediate: int
    tile: int = 1
    load: Load = Load.NATURAL
    here: int = 0
    first: int = 0
    score: RouterScore = RouterScore.SOFTMAX
    normalize: bool = True
    biased: bool = False
    num_groups: int = 1
    groups_per_token: int = 1

    @property
    def local_experts(self) -> int:
        """Experts on this rank."""
        return self.here or self.experts

    @property
    def options(self) -> RouteOptions:
        """How the router of this case chooses."""
        return RouteOptions(
            top_k=self.top_k,
            score=self.score,
            normalize=self.normalize,
            scale=2.5 if self.score is RouterScore.SIGMOID else 1.0,
            num_groups=self.num_groups,
            groups_per_token=self.groups_per_token,
        )


_SIGMOID = RouterScore.SIGMOID

CASES: Final = (
    Case(name="typical", tokens=512, experts=64, top_k=8, hidden=256, intermediate=256, tile=128),
    Case(name="no padding", tokens=300, experts=32, top_k=4, hidden=512, intermediate=384, normalize=False),
    Case(name="off the tile", tokens=333, experts=24, top_k=3, hidden=264, intermediate=136, tile=128),
    Case(name="odd number of experts", tokens=129, experts=33, top_k=5, hidden=72, intermediate=72, tile=16),
    Case(name="empty experts", tokens=40, experts=128, top_k=2, hidden=128, intermediate=128, tile=128, load=Load.FEW),
    Case(name="all to one", tokens=300, experts=8, top_k=1, hidden=128, intermediate=256, tile=128, load=Load.ONE),
    Case(name="k = E", tokens=100, experts=8, top_k=8, hidden=128, intermediate=128, tile=8),
    Case(name="zero tokens", tokens=0, experts=16, top_k=2, hidden=128, intermediate=128, tile=128),
    Case(name="one token", tokens=1, experts=16, top_k=2, hidden=128, intermediate=128, tile=128),
    Case(name="many experts", tokens=700, experts=512, top_k=22, hidden=64, intermediate=64, tile=8, score=_SIGMOID),
    Case(name="sigmoid", tokens=257, experts=60, top_k=4, hidden=64, intermediate=64, score=_SIGMOID, normalize=False),
    Case(
        name="groups, sigmoid, bias",
        tokens=513,
        experts=256,
        top_k=8,
        hidden=128,
        intermediate=128,
        tile=128,
        score=_SIGMOID,
        biased=True,
        num_groups=8,
        groups_per_token=4,
    ),
    Case(
        name="groups of 20, softmax",
        tokens=257,
        experts=160,
        top_k=6,
        hidden=64,
        intermediate=64,
        normalize=False,
        num_groups=8,
        groups_per_token=3,
    ),
    Case(name="bias, softmax", tokens=100, experts=40, top_k=4, hidden=64, intermediate=64, biased=True),
    Case(
        name="a part of the experts",
        tokens=300,
        experts=32,
        top_k=4,
        hidden=128,
        intermediate=128,
        tile=128,
        here=8,
        first=16,
    ),
    Case(name="several chunks", tokens=20_000, experts=64, top_k=8, hidden=8, intermediate=8, tile=128),
)


def random_logits(case: Case, device: torch.device, generator: torch.Generator) -> Tensor:
    """Router logits, (T, E), that lead tokens where the case wants them."""
    logits = torch.randn(case.tokens, case.experts, generator=generator)
    if case.load is Load.ONE:
        logits[:, 0] += 50
    elif case.load is Load.FEW:
        logits[:, case.experts // 4 :] -= 50
    return logits.to(device)


def random_map(case: Case, device: torch.device, generator: torch.Generator, tile: int | None = None) -> RowMap:
    """The map of random experts of this case, by the reference."""
    experts = random_logits(case, device, generator).topk(case.top_k).indices.to(torch.int32)
    return index_reference(experts, case.local_experts, case.first, case.tile if tile is None else tile)


def random_rows(rows: int, width: int, dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> Tensor:
    """Rows of normal numbers."""
    return torch.randn(rows, width, generator=generator).to(device=device, dtype=dtype)


def random_weights(shape: tuple[int, ...], device: torch.device, generator: torch.Generator) -> Tensor:
    """Gate weights, or their gradients, of a size that rounding would show."""
    return torch.rand(shape, generator=generator).to(device) + 0.1
