"""Which shapes the CUDA kernels take, and how slots are cut into chunks."""

from __future__ import annotations

from dataclasses import dataclass

from meshwright.kernels.limits import MOST_EXPERTS, MOST_ROWS

LEAST_CHUNK = 1024
MOST_BLOCKS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunks:
    """Slots of a block, and how many blocks."""

    chunk: int
    num_blocks: int


def why_not(num_experts: int, num_rows: int) -> str | None:
    """Why the CUDA kernel can't sort; None: it can.

    >>> why_not(1024, 1)
    '1024 experts, the kernel takes 512'
    """
    if num_experts > MOST_EXPERTS:
        return f"{num_experts} experts, the kernel takes {MOST_EXPERTS}"
    if num_rows > MOST_ROWS:
        return f"{num_rows} rows, the kernel takes {MOST_ROWS}"
    return None


def chunks(num_slots: int) -> Chunks:
    """Chunks of 1,024 slots, larger where that would be more than 128: every block adds up the counts of all.

    >>> chunks(65_536), chunks(524_288).chunk, chunks(0).num_blocks
    (Chunks(chunk=1024, num_blocks=64), 4096, 1)
    """
    chunk = max(1, -(-num_slots // (MOST_BLOCKS * LEAST_CHUNK))) * LEAST_CHUNK
    return Chunks(chunk=chunk, num_blocks=max(1, -(-num_slots // chunk)))
