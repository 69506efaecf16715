"""The kernel of the clock probe. It imports triton; `clock_probe` imports it only when the first clock is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

if TYPE_CHECKING:
    import torch


def _read_clocks(readings: tl.tensor) -> None:
    """Each SM writes its cycles and the GPU's nanoseconds to its place in `readings`, (SMs, 2)."""
    sm = tl.inline_asm_elementwise("mov.u32 $0, %smid;", "=r", [], dtype=tl.int32, is_pure=False, pack=1)
    cycles = tl.inline_asm_elementwise("mov.u64 $0, %clock64;", "=l", [], dtype=tl.int64, is_pure=False, pack=1)
    time_ns = tl.inline_asm_elementwise("mov.u64 $0, %globaltimer;", "=l", [], dtype=tl.int64, is_pure=False, pack=1)
    tl.store(readings + 2 * sm, cycles)
    tl.store(readings + 2 * sm + 1, time_ns)


_compiled = triton.jit(_read_clocks)


def read_clocks(readings: torch.Tensor, num_sms: int) -> None:
    """Start one warp for each SM on the current stream: where all SMs are idle, each of them gets one."""
    _compiled[(num_sms,)](readings, num_warps=1)
