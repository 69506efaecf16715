"""How routed tokens spread over experts, ranks and nodes."""

from __future__ import annotations

from functools import lru_cache


@lru_cache(maxsize=4096)
def expected_distinct_holders(num_experts: int, top_k: int, num_holders: int) -> float:
    """Expected number of holders (ranks or nodes) that own at least one of a token's `top_k` distinct experts.

    Experts are spread evenly over `num_holders` and chosen uniformly without replacement:

        E = G (1 - C(N - N/G, k) / C(N, k)),   N experts, G holders, k = top_k

    Source: hypergeometric distribution; the deduplicated volume of DeepEP (one copy per holder).

    >>> expected_distinct_holders(8, 2, 8)
    2.0
    >>> round(expected_distinct_holders(256, 8, 8), 3)
    5.291
    >>> expected_distinct_holders(4, 4, 2)
    2.0
    """
    others = num_experts - num_experts // num_holders
    miss = 1.0
    for chosen in range(top_k):
        miss *= max(0, others - chosen) / (num_experts - chosen)
    return num_holders * (1.0 - miss)
