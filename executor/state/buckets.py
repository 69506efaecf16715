"""Which parameters lie in one buffer: neighbours in model order.

A buffer is reduced when its last gradient is there and gathered before its first use, so it should reach over few parts
of the model; collectives of small buffers are slow, so it should not be too small.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from meshwright.executor.state.flat import OwnedParameter

MOST_ELEMENTS = 2**28
"""Parameters of one buffer, unless one alone has more: what is copied for a collective is never much more than this."""

LEAST_ELEMENTS = 2**25
"""A buffer with as many ends with the part of the model that it is in: 64 MB in 16 bits."""


def buckets(parts: Iterable[Sequence[OwnedParameter]], least: int) -> Iterator[tuple[OwnedParameter, ...]]:
    """Parameters of the parts of a model, as many together as a buffer takes. `least` 0: one part a buffer.

    All ranks of a stage find the same buckets, for their collectives go by them.
    """
    bucket: list[OwnedParameter] = []
    size = 0
    for part in parts:
        for one in part:
            if bucket and size + one.even_share > MOST_ELEMENTS:
                yield tuple(bucket)
                bucket, size = [], 0
            bucket.append(one)
            size += one.even_share
        if bucket and size >= least:
            yield tuple(bucket)
            bucket, size = [], 0
    if bucket:
        yield tuple(bucket)
