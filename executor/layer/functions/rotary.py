"""Rotary position embedding: the two halves of a head are the two coordinates (Llama's layout)."""

from __future__ import annotations

import torch
from torch import Tensor

from meshwright.executor.layer.rope_scaling import NO_SCALING, RopeScaling


def rotary_tables(
    positions_T: Tensor, width: int, theta: float, dtype: torch.dtype, scaling: RopeScaling = NO_SCALING
) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every token's angles, each (T, 1, width / 2): the same for all heads."""
    exponents = torch.arange(0, width, 2, device=positions_T.device, dtype=torch.float64) / width
    angles = torch.outer(positions_T.to(torch.float64), scaling.frequencies(theta**-exponents, theta))
    cos, sin = scaling.table_factor * angles.cos(), scaling.table_factor * angles.sin()
    return cos.to(dtype).unsqueeze(1), sin.to(dtype).unsqueeze(1)


def rotate_into(out_TND: Tensor, x_TND: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Write the rotated heads into `out_TND`, which may be a view but not of the input: four kernels."""
    first, second = x_TND.chunk(2, -1)
    out_first, out_second = out_TND.chunk(2, -1)
    torch.mul(first, cos, out=out_first)
    out_first.addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=out_second)
    out_second.addcmul_(first, sin)


def rotated_beside(parts_TND: list[Tensor], last_TND: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotated parts and `last_TND` as it is, side by side, (T, W), as one expression for `torch.compile`."""
    turned = [rotated(part, cos, sin).flatten(1) for part in parts_TND]
    return torch.cat((*turned, last_TND.flatten(1)), 1)


def rotate_beside(parts_TND: list[Tensor], last_TND: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """As `rotated_beside`, kernel by kernel."""
    widths = [part.shape[1] * part.shape[2] for part in (*parts_TND, last_TND)]
    joint = last_TND.new_empty(last_TND.shape[0], sum(widths))
    *targets, last = joint.split(widths, 1)
    for target, part in zip(targets, parts_TND, strict=True):
        rotate_into(target.unflatten(1, part.shape[1:]), part, cos, sin)
    last.copy_(last_TND.flatten(1))
    return joint


def rotated(x_TND: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The rotated heads, as one expression for `torch.compile`. The reverse rotation has the sine negated."""
    first, second = x_TND.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)
