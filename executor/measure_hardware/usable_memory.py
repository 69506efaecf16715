"""How much memory a process can really allocate on a GPU."""

from __future__ import annotations

import torch

MIB = 2**20
STEPS = (1024 * MIB, 128 * MIB, 16 * MIB, 2 * MIB)
RESERVE_BYTES = 64 * MIB
"""Left for what the driver takes when a program's kernels are loaded."""


def usable_memory_bytes(device: torch.device) -> int:
    """Found by allocating until nothing is left, in ever smaller pieces; less the reserve."""
    held: list[torch.Tensor] = []
    total = 0
    for size in STEPS:
        while True:
            try:
                held.append(torch.empty(size, dtype=torch.uint8, device=device))
            except torch.OutOfMemoryError:
                break
            total += size
    held.clear()
    torch.cuda.empty_cache()
    return total - RESERVE_BYTES
