"""How uneven routing loads experts and the ranks that hold them; what a capacity drops.

A share is an expert's part of all routed rows; the shares of a layer's experts sum to 1, and none exceeds 1 / k, since
a token chooses an expert at most once.
"""

from __future__ import annotations

from functools import lru_cache
from math import exp, fsum, log, pi, prod, sqrt
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

STEP = 0.125
"""Step of the trapezoidal rule in ln t: halving it changes no share by more than 1e-10."""

BLOCK = 64
ROUNDING = 1e-12
"""What is no more than this above even is even: a row too many may cost a whole tile."""


def zipf_preferences(exponent: float, num_experts: int) -> tuple[float, ...]:
    """How likely the router's first choice is each expert, the most popular one first.

    Equation: p_i = i^-s / sum_j j^-s, i = 1 ... N.
    Source: Zipf's law; Newman, Power laws, Pareto distributions and Zipf's law, Contemporary Physics 46, 2005.

    >>> [round(p, 3) for p in zipf_preferences(1.0, 3)]
    [0.545, 0.273, 0.182]
    >>> zipf_preferences(0.0, 4)
    (0.25, 0.25, 0.25, 0.25)
    """
    weights = [float(rank) ** -exponent for rank in range(1, num_experts + 1)]
    total = sum(weights)
    return tuple(weight / total for weight in weights)


@lru_cache(maxsize=256)
def chosen_shares(preferences: tuple[float, ...], top_k: int) -> tuple[float, ...]:
    """Expected share of routed rows of each expert, when a token draws `top_k` of them without replacement.

    A first choice falls on expert i with probability p_i, each further one on what is left in proportion
    (Plackett-Luce, which is what top-k of logits with Gumbel noise does). In continuous time expert i rings first at an
    exponential time of rate p_i, and the k that ring first are chosen, so

        share_i = (1 / k) integral_0^inf P(fewer than k of the others rang before t) p_i exp(-p_i t) dt

    The count of the others is a sum of independent Bernoulli variables; the integral is exact up to its quadrature.

    Source: derived; exponential clocks after Rosén, Asymptotic theory for successive sampling, Ann. Math. Statist. 43,
    1972.

    >>> [round(share, 4) for share in chosen_shares((0.5, 0.3, 0.2), 2)]  # (0.5 + 0.3 5/7 + 0.2 5/8) / 2 = 0.4196
    [0.4196, 0.3375, 0.2429]
    >>> chosen_shares((0.7, 0.3), 1)
    (0.7, 0.3)
    """
    if top_k == 1 or min(preferences) == max(preferences):
        return preferences
    rates = np.asarray(preferences)
    most, least = max(preferences), min(preferences)
    points = np.arange(log(1e-16 / most), log(40.0 / least), STEP)
    chosen = sum(
        (_chosen(rates, top_k, np.exp(points[at : at + BLOCK])) for at in range(0, len(points), BLOCK)),
        start=np.zeros(len(rates)),
    )
    return tuple((chosen / chosen.sum()).tolist())


def _chosen(rates: Array, top_k: int, times: Array) -> Array:
    """The integrand in ln t, summed over `times`, of each expert."""
    late = np.exp(-rates[:, None] * times)
    before, after = _counts(late, top_k), _counts(late[::-1], top_k)[::-1]
    others = sum(before[:-1, j] * after[1:, : top_k - j].sum(axis=1) for j in range(top_k))
    result: Array = (others * rates[:, None] * times * late).sum(axis=1)
    return result


def _counts(late: Array, top_k: int) -> Array:
    """[experts + 1, counts, times]: probability that so many of the first experts rang, for counts below k."""
    counts = np.zeros((len(late) + 1, top_k, late.shape[1]))
    counts[0, 0] = 1.0
    for expert, missed in enumerate(late):
        counts[expert + 1] = counts[expert] * missed
        counts[expert + 1, 1:] += counts[expert, :-1] * (1.0 - missed)
    return counts


def busiest_rows(shares: tuple[float, ...], num_ranks: int) -> float:
    """Rows of the busiest rank over the mean; each rank holds as many neighbouring experts.

    Equation: G max_r sum_{i in r} share_i.
    Source: derived; contiguous placement is Megatron-Core's and MegaScale-MoE's (arXiv 2505.11432, section 3).

    >>> busiest_rows((0.5, 0.25, 0.125, 0.125), 2)
    1.5
    >>> busiest_rows((0.25, 0.25, 0.25, 0.25), 2)
    1.0
    """
    most = num_ranks * max(fsum(held) for held in _held(shares, num_ranks))
    return most if most > 1.0 + ROUNDING else 1.0


def busiest_copies(shares: tuple[float, ...], top_k: int, num_holders: int) -> float:
    """Distinct tokens that the busiest holder (rank or node) receives, over their number under even routing.

    A token reaches a holder once, however many of its experts it chooses. With expert i chosen by k share_i of the
    tokens, taken as independent both here and under even routing, so that the error of that cancels in the ratio:

        max_r (1 - prod_{i in r} (1 - k share_i)) / (1 - (1 - k / N)^(N / G))

    Source: derived; DeepEP's deduplicated dispatch. Held against sampled routing by the tests, within 3 %.

    >>> busiest_copies((0.25, 0.25, 0.25, 0.25), 2, 2)
    1.0
    >>> round(busiest_copies((0.4, 0.2, 0.2, 0.2), 2, 2), 4)  # (1 - 0.2 0.6) / (1 - 0.5 0.5)
    1.1733
    """
    even = 1.0 - (1.0 - top_k / len(shares)) ** (len(shares) // num_holders)
    missed = (prod(max(0.0, 1.0 - top_k * share) for share in held) for held in _held(shares, num_holders))
    most = (1.0 - min(missed)) / even
    return most if most > 1.0 + ROUNDING else 1.0


def _held(shares: tuple[float, ...], num_holders: int) -> list[tuple[float, ...]]:
    size = len(shares) // num_holders
    return [shares[start : start + size] for start in range(0, len(shares), size)]


@lru_cache(maxsize=1024)
def packed(shares: tuple[float, ...], num_ranks: int) -> tuple[float, ...]:
    """The shares in an order in which neighbours balance: heaviest expert first, each to the lightest rank with room.

    Source: longest processing time first (Graham, SIAM J. Appl. Math. 17, 1969) with as many experts on every rank;
    `balanced_packing` of deepseek-ai/EPLB.

    >>> packed((0.4, 0.3, 0.2, 0.1), 2)
    (0.4, 0.1, 0.3, 0.2)
    """
    room = len(shares) // num_ranks
    held: list[list[float]] = [[] for _ in range(num_ranks)]
    for share in sorted(shares, reverse=True):
        min((rank for rank in held if len(rank) < room), key=sum).append(share)
    return tuple(share for rank in held for share in rank)


def dropped_fraction(shares: tuple[float, ...], capacity_factor: float, deviation: float = 0.0) -> float:
    """Share of routed rows that find their expert full, when an expert takes c times the mean rows and no more.

    Expert i has m_i = N share_i times the mean rows on average and deviates from that normally, by s_i = deviation m_i:

        (1 / N) sum_i E[(load_i - c)+],   E = (m_i - c) Phi(z) + s_i phi(z),   z = (m_i - c) / s_i

    Source: derived; capacity after GShard (arXiv 2006.16668, section 2.2) and Switch (arXiv 2101.03961, equation 3).

    >>> round(dropped_fraction((0.5, 0.25, 0.25), 1.2), 12)  # (1.5 - 1.2) / 3
    0.1
    >>> dropped_fraction((0.25, 0.25, 0.25, 0.25), 1.0)
    0.0
    >>> round(dropped_fraction((0.5, 0.5), 1.0, deviation=0.1), 4)  # 0.1 phi(0)
    0.0399
    """
    excesses = (_excess(len(shares) * share, capacity_factor, deviation) for share in shares)
    return sum(excesses) / len(shares)


def _excess(mean: float, capacity: float, deviation: float) -> float:
    spread = deviation * mean
    over = mean - capacity
    if spread == 0.0:
        return max(0.0, over)
    z = over / spread
    return max(0.0, over * NormalDist().cdf(z) + spread * exp(-z * z / 2) / sqrt(2.0 * pi))
