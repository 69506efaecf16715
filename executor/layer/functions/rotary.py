"""Rotary position embedding: the two halves of a head are the two coordinates (Llama's layout)."""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_tables(positions_T: Tensor, width: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every token's angles, each (T, 1, width / 2): the same for all heads."""
    exponents = torch.arange(0, width, 2, device=positions_T.device, dtype=torch.float64) / width
    angles = torch.outer(positions_T.to(torch.float64), theta**-exponents)
    return angles.cos().to(dtype).unsqueeze(1), angles.sin().to(dtype).unsqueeze(1)


def rotate_into(out_TND: Tensor, x_TND: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Write the rotated heads into `out_TND`, which may be a view but not of the input: four kernels."""
    first, second = x_TND.chunk(2, -1)
    out_first, out_second = out_TND.chunk(2, -1)
    torch.mul(first, cos, out=out_first)
    out_first.addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=out_second)
    out_second.addcmul_(first, sin)


def rotated(x_TND: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The rotated heads, as one expression for `torch.compile`. The reverse rotation has the sine negated."""
    first, second = x_TND.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)
