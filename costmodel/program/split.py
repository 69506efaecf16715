"""Splitting whole things (heads, columns, experts) over ranks."""

from __future__ import annotations


def share(count: int, num_ranks: int) -> int:
    """The most of `count` things that one of `num_ranks` ranks holds; with fewer things than ranks they are copied.

    >>> share(8, 4), share(8, 16), share(10, 4)
    (2, 1, 3)
    """
    return -(-count // num_ranks)
