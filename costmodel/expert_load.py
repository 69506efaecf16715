"""How unevenly tokens choose experts, and what that makes of the busiest expert-parallel rank.

Experts are placed as runtimes place them: each rank holds as many neighbours. A load says which expert is how popular,
a placement in which order the experts lie. All MoE layers are loaded alike, so the same rank is the busiest in each,
and it is the one that every other waits for, layer by layer.

With a capacity factor c an expert takes at most c times the mean rows of an expert; what exceeds that is dropped, and
experts that get less are filled up with rows of zeros, which are sent and multiplied like others (GShard, arXiv
2006.16668; Switch, arXiv 2101.03961). So every rank has exactly c times the mean rows, whatever the routing. Without
one, nothing is dropped and nothing is filled up (dropless, as MegaBlocks and DeepSeek-V3).
"""

from __future__ import annotations

import math
from enum import StrEnum
from functools import lru_cache

from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.formulas.expert_load import (
    busiest_copies,
    busiest_rows,
    chosen_shares,
    dropped_fraction,
    packed,
    zipf_preferences,
)
from meshwright.costmodel.formulas.experts import expected_distinct_holders
from meshwright.costmodel.model import ModelSpec, MoeFfnSpec
from meshwright.costmodel.value import Value

MOST_ZIPF_EXPONENT = 8.0
SUM_TOLERANCE = 1e-3
"""What rounding to a few digits may do to the sum of a histogram."""


class ExpertPlacement(StrEnum):
    """Order in which experts lie on ranks.

    CONTIGUOUS: by their number; a Zipf load has its most popular experts first, all on the first ranks, which no
    placement exceeds. PACKED: heaviest first, each to the lightest rank that has room, as EPLB does.
    """

    CONTIGUOUS = "contiguous"
    PACKED = "packed"


class ZipfLoad(Value, frozen=True, kw_only=True, tag="zipf"):
    """The router prefers the i-th most popular expert in proportion to i^-exponent, and draws without replacement."""

    exponent: float
    placement: ExpertPlacement = ExpertPlacement.CONTIGUOUS

    def __post_init__(self) -> None:
        if not 0.0 <= self.exponent <= MOST_ZIPF_EXPONENT:
            raise StrategyError(
                "expert load",
                "exponent",
                f"{self.exponent} is not a number from 0 (balanced) to {MOST_ZIPF_EXPONENT:g}",
            )

    def shares_of(self, moe: MoeFfnSpec) -> tuple[float, ...]:
        """Expected share of the routed rows of each expert."""
        return chosen_shares(zipf_preferences(self.exponent, moe.num_experts), moe.top_k)

    def __str__(self) -> str:
        return f"zipf:{self.exponent:g}"


class HistogramLoad(Value, frozen=True, kw_only=True, tag="histogram"):
    """Measured shares of the routed rows, expert by expert, in the order of their numbers. `source`: the file."""

    shares: tuple[float, ...]
    source: str
    placement: ExpertPlacement = ExpertPlacement.CONTIGUOUS

    def __post_init__(self) -> None:
        for expert, fraction in enumerate(self.shares):
            if not (math.isfinite(fraction) and 0.0 <= fraction <= 1.0):
                raise StrategyError(self.source, f"shares[{expert}]", f"{fraction:g} is not a share between 0 and 1")
        total = math.fsum(self.shares)
        if abs(total - 1.0) > SUM_TOLERANCE:
            raise StrategyError(
                self.source,
                "shares",
                f"{len(self.shares)} shares that sum to {total:.6g}, expected 1 (within {SUM_TOLERANCE:g})",
            )

    def shares_of(self, moe: MoeFfnSpec) -> tuple[float, ...]:
        """The shares, scaled to a sum of 1; raises `StrategyError` where this layer cannot have them."""
        if len(self.shares) != moe.num_experts:
            raise StrategyError(
                self.source, "shares", f"{len(self.shares)} shares, but the model has {moe.num_experts} experts"
            )
        most = max(self.shares)
        if most * moe.top_k > 1.0 + SUM_TOLERANCE:
            raise StrategyError(
                self.source,
                f"shares[{self.shares.index(most)}]",
                f"{most:g}, but a token chooses {moe.top_k} different experts, so that no share exceeds"
                f" 1 / {moe.top_k} = {1 / moe.top_k:.6g}",
            )
        total = math.fsum(self.shares)
        return tuple(fraction / total for fraction in self.shares)

    def __str__(self) -> str:
        return f"histogram:{self.source}"


ExpertLoad = ZipfLoad | HistogramLoad


class BusiestRank(Value, frozen=True, kw_only=True):
    """What a known load makes of the busiest expert-parallel rank, each figure over the mean of even routing.

    rows: rows its experts work on, and that plain all-to-all brings. copies, node_copies: distinct tokens that
    deduplicated dispatch brings to it, and to its node. capacity: rows under a capacity factor, infinite without;
    most_copies, most_node_copies: distinct tokens that these rows can be.
    """

    rows: float = 1.0
    copies: float = 1.0
    node_copies: float = 1.0
    most_copies: float = math.inf
    most_node_copies: float = math.inf
    capacity: float = math.inf

    @property
    def filled(self) -> float:
        """Rows that a rank sends over those it routes: buffers are filled up to the capacity before they are sent."""
        return self.capacity if math.isfinite(self.capacity) else 1.0

    def rows_given(self, assumed: float) -> float:
        """Rows over the mean where `assumed` is what is taken for granted without a known load."""
        return self.capacity if math.isfinite(self.capacity) else max(assumed, self.rows)

    def copies_given(self, assumed: float) -> float:
        """Distinct tokens over the mean."""
        return min(max(assumed, self.copies), self.most_copies)

    def node_copies_given(self, assumed: float) -> float:
        """Distinct tokens of its node over the mean."""
        return min(max(assumed, self.node_copies), self.most_node_copies)


EVEN = BusiestRank()


@lru_cache(maxsize=4096)
def busiest_rank(
    moe: MoeFfnSpec, load: ExpertLoad | None, capacity_factor: float, num_ranks: int, num_nodes: int
) -> BusiestRank:
    """The busiest of `num_ranks` expert-parallel ranks on `num_nodes`; `load` None: balanced.

    `capacity_factor` is infinite where nothing is dropped.
    """
    capacity = min(capacity_factor, moe.num_experts / moe.top_k) if math.isfinite(capacity_factor) else math.inf
    shares = placed_shares(load, moe, num_ranks)
    copies, most_copies = _copies(shares, moe, num_ranks, capacity)
    node_copies, most_node_copies = _copies(shares, moe, num_nodes, capacity)
    return BusiestRank(
        rows=busiest_rows(shares, num_ranks),
        copies=copies,
        node_copies=node_copies,
        most_copies=most_copies,
        most_node_copies=most_node_copies,
        capacity=capacity,
    )


def placed_shares(load: ExpertLoad | None, moe: MoeFfnSpec, num_ranks: int) -> tuple[float, ...]:
    """The shares of experts in the order in which they lie on ranks."""
    if load is None:
        return (1.0 / moe.num_experts,) * moe.num_experts
    shares = load.shares_of(moe)
    return packed(shares, num_ranks) if load.placement == ExpertPlacement.PACKED else shares


def _copies(shares: tuple[float, ...], moe: MoeFfnSpec, num_holders: int, capacity: float) -> tuple[float, float]:
    """Distinct tokens of the busiest holder over the mean, and the most that a capacity admits."""
    mean = expected_distinct_holders(
        moe.num_experts, moe.top_k, num_holders, moe.num_expert_groups, moe.groups_per_token
    )
    all_tokens = num_holders / mean
    return min(busiest_copies(shares, moe.top_k, num_holders), all_tokens), capacity * moe.top_k / mean


class RoutedRows(Value, frozen=True, kw_only=True):
    """What becomes of the rows of a layer: dropped, as a share of all; zeros filled up, as a share of all computed."""

    dropped_fraction: float
    filled_fraction: float


@lru_cache(maxsize=1024)
def routed_rows(moe: MoeFfnSpec, load: ExpertLoad | None, capacity_factor: float, deviation: float) -> RoutedRows:
    """Rows dropped and filled up, with loads that deviate by `deviation` around what is expected."""
    if not math.isfinite(capacity_factor):
        return RoutedRows(dropped_fraction=0.0, filled_fraction=0.0)
    capacity = min(capacity_factor, moe.num_experts / moe.top_k)
    dropped = dropped_fraction(placed_shares(load, moe, 1), capacity, deviation)
    return RoutedRows(dropped_fraction=dropped, filled_fraction=max(0.0, 1.0 - (1.0 - dropped) / capacity))


def check_expert_load(model: ModelSpec, load: ExpertLoad | None) -> None:
    """Raises `StrategyError` where a layer of the model cannot have this load."""
    if load is None:
        return
    for layer, _ in model.layer_runs:
        if isinstance(layer.ffn, MoeFfnSpec):
            load.shares_of(layer.ffn)
