"""How many (query, key) pairs causal attention scores."""

from __future__ import annotations


def causal_pairs(seq_len: int, window: int = 0) -> float:
    """Pairs scored in one sequence and head: s^2 / 2, or with a sliding window w < s: s w - w^2 / 2.

    Source: the convention that causal attention counts half (MegaScale-MoE, arXiv 2505.11432, section 6; Megatron-LM,
    arXiv 2104.04473, appendix, without the half); the window form is the same triangle cut at w.

    >>> causal_pairs(8192)
    33554432.0
    >>> causal_pairs(1000, window=100)
    95000.0
    >>> causal_pairs(100, window=4096)
    5000.0
    """
    if 0 < window < seq_len:
        return seq_len * window - window * window / 2
    return seq_len * seq_len / 2
