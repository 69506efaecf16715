"""Uneven routing: how many rows each expert gets when popularity follows Zipf's law."""

from __future__ import annotations

ZIPF_EXPONENT = 0.5
ROW_MULTIPLE = 16


def zipf_shares(count: int, exponent: float = ZIPF_EXPONENT) -> tuple[float, ...]:
    """Shares proportional to rank^-exponent, the most popular first; they sum to 1."""
    weights = [(rank + 1) ** -exponent for rank in range(count)]
    return tuple(weight / sum(weights) for weight in weights)


def zipf_rows(rows: int, groups: int) -> tuple[int, ...]:
    """`rows` rows over groups by Zipf's law, in multiples of 16; the first group takes what is left."""
    counts = [int(share * rows) // ROW_MULTIPLE * ROW_MULTIPLE for share in zipf_shares(groups)]
    return (rows - sum(counts[1:]), *counts[1:])
