"""Which shapes the CUDA kernel takes, and how many blocks run it."""

from __future__ import annotations

from meshwright.kernels.limits import MOST_ROWS, MOST_SEGMENTS

ROWS_A_BLOCK = 1024
MOST_BLOCKS = 128


def why_not(num_segments: int, num_rows: int) -> str | None:
    """Why the CUDA kernel can't regroup; None: it can. A segment is an expert's rows of one source.

    >>> why_not(2048, 1)
    '2048 pairs of source and expert, the kernel takes 1024'
    """
    if num_segments > MOST_SEGMENTS:
        return f"{num_segments} pairs of source and expert, the kernel takes {MOST_SEGMENTS}"
    if num_rows > MOST_ROWS:
        return f"{num_rows} rows, the kernel takes {MOST_ROWS}"
    return None


def num_blocks(num_rows: int) -> int:
    """Blocks of 1,024 threads, a thread for a row or more: every block adds up all counts.

    >>> num_blocks(65_536), num_blocks(1_000_000), num_blocks(0)
    (64, 128, 1)
    """
    return max(1, min(MOST_BLOCKS, -(-num_rows // ROWS_A_BLOCK)))
