from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest

from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.expert_load import (
    EVEN,
    ExpertLoad,
    ExpertPlacement,
    HistogramLoad,
    ZipfLoad,
    busiest_rank,
    placed_shares,
    routed_rows,
)
from meshwright.costmodel.formulas.expert_load import (
    busiest_copies,
    busiest_rows,
    chosen_shares,
    dropped_fraction,
    packed,
    zipf_preferences,
)
from meshwright.costmodel.formulas.experts import expected_distinct_holders
from meshwright.costmodel.model import MoeFfnSpec

INF = math.inf
MOE = MoeFfnSpec(num_experts=64, top_k=8, intermediate=256)
SMALL = MoeFfnSpec(num_experts=4, top_k=2, intermediate=256)


def _by_enumeration(preferences: tuple[float, ...], top_k: int) -> list[float]:
    """Every order of draws with its probability."""
    shares = [0.0] * len(preferences)
    for order in permutations(range(len(preferences)), top_k):
        probability, left = 1.0, 1.0
        for expert in order:
            probability *= preferences[expert] / left
            left -= preferences[expert]
        for expert in order:
            shares[expert] += probability / top_k
    return shares


@pytest.mark.parametrize(("exponent", "num_experts", "top_k"), [(1.2, 6, 3), (3.0, 7, 2), (0.5, 5, 5), (8.0, 6, 3)])
def test_shares_are_those_of_enumerated_draws(exponent: float, num_experts: int, top_k: int) -> None:
    preferences = zipf_preferences(exponent, num_experts)
    assert chosen_shares(preferences, top_k) == pytest.approx(_by_enumeration(preferences, top_k), abs=1e-10)


def _drawn_experts(
    exponent: float, moe: MoeFfnSpec, num_tokens: int
) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Top-k of logits with Gumbel noise."""
    generator = np.random.default_rng(0)
    logits = np.log(zipf_preferences(exponent, moe.num_experts))
    noisy = logits + generator.gumbel(size=(num_tokens, moe.num_experts))
    chosen: np.ndarray[tuple[int, int], np.dtype[np.int64]] = np.argpartition(-noisy, moe.top_k)[:, : moe.top_k]
    return chosen


@pytest.mark.parametrize("exponent", [0.3, 1.0])
def test_shares_are_those_of_sampled_routing(exponent: float) -> None:
    counts = np.bincount(_drawn_experts(exponent, MOE, 40_000).ravel(), minlength=64) / (40_000 * 8)
    shares = chosen_shares(zipf_preferences(exponent, 64), 8)
    assert counts == pytest.approx(shares, abs=5 * math.sqrt(max(shares) / (40_000 * 8)))


@pytest.mark.parametrize("exponent", [0.0, 0.3, 0.7, 1.2])
@pytest.mark.parametrize("num_holders", [2, 8, 16])
def test_copies_of_the_busiest_holder_are_those_of_sampled_routing(exponent: float, num_holders: int) -> None:
    holders = _drawn_experts(exponent, MOE, 20_000) // (64 // num_holders)
    received = max(float((holders == holder).any(axis=1).mean()) for holder in range(num_holders))
    even = expected_distinct_holders(64, 8, num_holders) / num_holders
    busiest = busiest_rank(MOE, ZipfLoad(exponent=exponent), INF, num_holders, 1)
    assert even * busiest.copies == pytest.approx(received, rel=0.03)


def test_a_balanced_load_is_exactly_even() -> None:
    shares = placed_shares(None, MOE, 8)
    assert busiest_rows(shares, 8) == busiest_copies(shares, 8, 8) == 1.0
    for load in (None, ZipfLoad(exponent=0.0)):
        assert busiest_rank(MOE, load, INF, 8, 1) == EVEN
        assert busiest_rank(MOE, load, INF, 64, 8) == EVEN


def test_ranks_hold_neighbouring_experts() -> None:
    load = HistogramLoad(shares=(0.4, 0.3, 0.2, 0.1), source="loads.csv")
    assert busiest_rank(SMALL, load, INF, 2, 1).rows == pytest.approx(1.4)
    assert busiest_rank(SMALL, load, INF, 4, 1).rows == pytest.approx(1.6)
    assert busiest_rank(SMALL, load, INF, 1, 1).rows == 1.0


def test_packing_puts_heavy_experts_beside_light_ones() -> None:
    load = HistogramLoad(shares=(0.4, 0.3, 0.2, 0.1), source="loads.csv", placement=ExpertPlacement.PACKED)
    assert busiest_rank(SMALL, load, INF, 2, 1).rows == pytest.approx(1.0)
    shares = chosen_shares(zipf_preferences(1.0, 64), 8)
    assert sorted(packed(shares, 8)) == sorted(shares)
    assert 1.0 <= busiest_rows(packed(shares, 8), 8) < busiest_rows(shares, 8)


def test_a_holder_receives_a_token_at_most_once() -> None:
    busiest = busiest_rank(MOE, ZipfLoad(exponent=8.0), INF, 8, 2)
    assert busiest.copies == pytest.approx(8 / expected_distinct_holders(64, 8, 8), rel=1e-4)
    assert busiest.copies <= 8 / expected_distinct_holders(64, 8, 8)
    assert busiest.node_copies <= 2 / expected_distinct_holders(64, 8, 2)
    assert 7.0 < busiest.rows < 8.0  # a token's last choices fall on other ranks now and then


def test_under_a_capacity_every_rank_has_as_many_rows() -> None:
    for load in (None, ZipfLoad(exponent=2.0)):
        busiest = busiest_rank(MOE, load, 1.25, 8, 1)
        assert busiest.rows_given(1.0) == busiest.rows_given(3.0) == busiest.filled == 1.25
    assert busiest_rank(MOE, None, 100.0, 8, 1).rows_given(1.0) == 8.0  # an expert gets each token once at most
    tight = busiest_rank(MOE, ZipfLoad(exponent=2.0), 0.5, 8, 1)
    assert tight.copies_given(1.0) == pytest.approx(0.5 * 8 / expected_distinct_holders(64, 8, 8))


def test_what_is_taken_for_granted_holds_where_it_is_more() -> None:
    busiest = busiest_rank(SMALL, HistogramLoad(shares=(0.4, 0.3, 0.2, 0.1), source="f"), INF, 2, 1)
    assert busiest.rows_given(1.1) == pytest.approx(1.4)
    assert busiest.rows_given(1.5) == 1.5
    assert (EVEN.rows_given(1.3), EVEN.copies_given(1.3), EVEN.node_copies_given(1.3)) == (1.3, 1.3, 1.3)


def test_dropped_rows_by_hand() -> None:
    load = HistogramLoad(shares=(0.4, 0.3, 0.2, 0.1), source="loads.csv")
    rows = routed_rows(SMALL, load, 1.25, 0.0)
    assert rows.dropped_fraction == pytest.approx(0.35 / 4)  # only expert 0 is over: 1.6 - 1.25
    assert rows.filled_fraction == pytest.approx(1 - (1 - 0.35 / 4) / 1.25)
    assert routed_rows(SMALL, load, INF, 0.3).dropped_fraction == 0.0


def test_dropped_rows_are_those_of_sampled_loads() -> None:
    shares = chosen_shares(zipf_preferences(0.3, 64), 8)
    loads = 64 * np.array(shares) * (1 + 0.2 * np.random.default_rng(1).standard_normal((20_000, 64)))
    drawn = np.maximum(loads - 1.2, 0.0).mean()
    assert dropped_fraction(shares, 1.2, 0.2) == pytest.approx(drawn, rel=0.01)


def test_more_capacity_drops_less_and_fills_more() -> None:
    rows = [routed_rows(MOE, ZipfLoad(exponent=0.5), factor, 0.1) for factor in (0.5, 1.0, 1.25, 2.0, 8.0)]
    dropped = [each.dropped_fraction for each in rows]
    assert dropped == sorted(dropped, reverse=True)
    assert dropped[0] > 0.5 > 0.1 > dropped[-1] >= 0.0
    filled = [each.filled_fraction for each in rows]
    assert filled == sorted(filled)


def test_a_steeper_load_is_never_better_for_the_busiest_rank() -> None:
    steeper = [busiest_rank(MOE, ZipfLoad(exponent=s / 10), INF, 8, 2) for s in range(0, 40, 2)]
    for name in ("rows", "copies", "node_copies"):
        figures = [getattr(busiest, name) for busiest in steeper]
        assert figures == sorted(figures)


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ((0.5, 0.4), r"loads.csv: shares: 2 shares that sum to 0.9, expected 1"),
        ((1.2, -0.2), r"loads.csv: shares\[0\]: 1.2 is not a share between 0 and 1"),
        ((0.5, float("nan")), r"loads.csv: shares\[1\]: nan is not a share"),
        ((), r"loads.csv: shares: 0 shares that sum to 0"),
    ],
)
def test_a_histogram_that_is_none(shares: tuple[float, ...], message: str) -> None:
    with pytest.raises(StrategyError, match=message):
        HistogramLoad(shares=shares, source="loads.csv")


def test_a_histogram_of_another_model() -> None:
    with pytest.raises(StrategyError, match=r"loads\.csv: shares: 2 shares, but the model has 4 experts"):
        HistogramLoad(shares=(0.5, 0.5), source="loads.csv").shares_of(SMALL)
    message = r"shares\[1\]: 0.7, but a token chooses 2 different experts, so that no share exceeds 1 / 2 = 0.5"
    with pytest.raises(StrategyError, match=message):
        HistogramLoad(shares=(0.1, 0.7, 0.1, 0.1), source="loads.csv").shares_of(SMALL)


def test_rounded_shares_are_scaled_to_one() -> None:
    shares = HistogramLoad(shares=(0.2502, 0.2501, 0.25, 0.25), source="f").shares_of(SMALL)
    assert sum(shares) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("exponent", [-0.1, 8.1, float("nan"), float("inf")])
def test_a_zipf_exponent_that_is_none(exponent: float) -> None:
    with pytest.raises(StrategyError, match="is not a number from 0"):
        ZipfLoad(exponent=exponent)


def test_loads_have_words() -> None:
    loads: tuple[ExpertLoad, ...] = (ZipfLoad(exponent=1.2), HistogramLoad(shares=(1.0,), source="a.csv"))
    assert tuple(map(str, loads)) == ("zipf:1.2", "histogram:a.csv")
