"""How routed tokens spread over experts, ranks and nodes."""

from __future__ import annotations

from functools import lru_cache
from math import comb, sqrt
from statistics import NormalDist

RDMA_TIME = 0.86
"""Time of large RDMA writes to one GPU over that of NCCL's all-to-all: 0.75 of the link over 0.87 (DeepEP's README)."""

NUM_FORWARDED_CHUNKS = 8
"""Pieces in which a node forwards what it receives: roughly; `forwarded_s` uses the share of the last one."""


@lru_cache(maxsize=4096)
def expected_distinct_holders(
    num_experts: int, top_k: int, num_holders: int, num_groups: int = 1, groups_per_token: int = 1
) -> float:
    """Expected number of holders (ranks or nodes) that own at least one of a token's `top_k` distinct experts.

    Experts are spread evenly over holders. A token first chooses `groups_per_token` of `num_groups` equal groups of
    neighbouring experts (node-limited routing), then k experts of them, all uniformly and without replacement:

        E = G (1 - sum_j P(j) C(N' - o_j, k) / C(N', k)),   N' experts in the chosen groups, G holders,
        o_j = experts of one holder that are in them, P(j) hypergeometric. One group: G (1 - C(N - N/G, k) / C(N, k)).

    Source: hypergeometric distribution; the deduplicated volume of DeepEP (one copy per holder); node-limited routing
    of DeepSeek-V3 (arXiv 2412.19437), section 2.1.2.

    >>> expected_distinct_holders(8, 2, 8)
    2.0
    >>> round(expected_distinct_holders(256, 8, 8), 3)
    5.295
    >>> round(expected_distinct_holders(256, 8, 8, num_groups=8, groups_per_token=4), 3)  # at most 4 nodes
    3.629
    >>> expected_distinct_holders(4, 4, 2)
    2.0
    """
    reachable = num_experts // num_groups * groups_per_token
    groups_held = max(1, num_groups // num_holders)
    owned_in_group = num_experts // num_holders // groups_held
    hit = 0.0
    for chosen in range(1, min(groups_held, groups_per_token) + 1):
        ways = comb(groups_held, chosen) * comb(num_groups - groups_held, groups_per_token - chosen)
        missed = comb(reachable - chosen * owned_in_group, top_k) / comb(reachable, top_k)
        hit += ways / comb(num_groups, groups_per_token) * (1.0 - missed)
    return num_holders * hit


def forwarded_s(between_s: float, inside_s: float) -> tuple[float, float]:
    """Seconds of a deduplicated exchange between nodes, and of what is left inside them, when chunks are forwarded.

        max(0.86 B, 0.86 B / 8 + 7/8 I),   I / 8

    B: the hop between nodes as an all-to-all of NCCL, 0.75 of the link; RDMA of large pieces to the GPU of the same
    rail reaches 0.87. I: the hop inside; a node forwards what it has while more arrives, in about eight chunks, at the
    pace of the slower hop; the last chunk is forwarded when nothing arrives any more. Forwarding under the network
    counts as the network's time, so that a faster network lengthens nothing.

    Source: DeepEP, README (58 GB/s at 32 ranks of 50 GB/s adapters, the own node's quarter counted) and
    csrc/kernels/internode.cu (receivers forward over NVLink chunk by chunk).

    >>> forwarded_s(1.0, 0.4)
    (0.86, 0.05)
    >>> forwarded_s(1.0, 1.6)
    (1.5075, 0.2)
    """
    network_s = RDMA_TIME * between_s
    last = 1.0 / NUM_FORWARDED_CHUNKS
    return max(network_s, last * network_s + (1.0 - last) * inside_s), last * inside_s


@lru_cache(maxsize=4096)
def expected_imbalance(deviation: float, num_experts: int, num_ranks: int) -> float:
    """Load of the busiest of `num_ranks` expert-parallel ranks over the mean, when experts' loads differ independently.

    An expert's load has the relative standard deviation `deviation`; a rank holds E / G experts, whose mean deviates by
    less; the busiest of G ranks is the expected maximum of G normal deviates (Blom's approximation):

        1 + deviation z(G) / sqrt(E / G),   z(G) = Phi^-1((G - 3/8) / (G + 1/4))

    Source: derived; z from Blom, Statistical Estimates and Transformed Beta-Variables, 1958. It is why balancing whole
    devices is easier than balancing experts (MegaScale-MoE, arXiv 2505.11432, section 3).

    >>> round(expected_imbalance(0.14, 32, 8), 3)
    1.1
    >>> round(expected_imbalance(0.14, 32, 32), 3)
    1.289
    >>> expected_imbalance(0.14, 8, 1)
    1.0
    """
    if num_ranks == 1:
        return 1.0
    most = NormalDist().inv_cdf((num_ranks - 0.375) / (num_ranks + 0.25))
    return 1.0 + deviation * most / sqrt(num_experts / num_ranks)
