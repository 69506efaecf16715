"""The kernel of the clock probe. It is written for triton, which comes with PyTorch for CUDA alone."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch


@cache
def _kernel() -> Any:  # noqa: ANN401  triton has no types
    """Compiled for the GPU when it is first started; an `ImportError` without triton."""
    import triton
    import triton.language as tl

    def read_clocks(readings: tl.tensor) -> None:
        sm = tl.inline_asm_elementwise("mov.u32 $0, %smid;", "=r", [], dtype=tl.int32, is_pure=False, pack=1)
        cycles = tl.inline_asm_elementwise("mov.u64 $0, %clock64;", "=l", [], dtype=tl.int64, is_pure=False, pack=1)
        time_ns = tl.inline_asm_elementwise(
            "mov.u64 $0, %globaltimer;", "=l", [], dtype=tl.int64, is_pure=False, pack=1
        )
        tl.store(readings + 2 * sm, cycles)
        tl.store(readings + 2 * sm + 1, time_ns)

    return triton.jit(read_clocks)


def read_clocks(readings: torch.Tensor, num_sms: int) -> None:
    """Each SM writes its cycles and the GPU's nanoseconds to its place in `readings`, (SMs, 2), on the current stream.

    One warp for each SM is started: where all SMs are idle, each of them gets one.
    """
    _kernel()[(num_sms,)](readings, num_warps=1)
