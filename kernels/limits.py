"""The most that CUDA kernels take, as device/limits.h says it to their code."""

from __future__ import annotations

from typing import Final

MOST_EXPERTS: Final = 512
MOST_CHOSEN: Final = 32
"""Experts of a token."""
MOST_GROUPS: Final = 32
"""Of experts, from which routers choose first."""
MOST_SEGMENTS: Final = 1024
"""Pairs of source rank and expert."""
MOST_ROWS: Final = 2**31 - 1
"""Their numbers are int32."""
