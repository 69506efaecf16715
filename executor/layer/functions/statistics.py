"""The number format of sums and statistics: at least float32."""

from __future__ import annotations

import torch


def statistics_type(dtype: torch.dtype) -> torch.dtype:
    """Float32, or what is wider."""
    return torch.promote_types(dtype, torch.float32)
