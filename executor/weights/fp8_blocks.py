"""FP8 weights with a scale for every block of a matrix, as DeepSeek-V3 is published.

Source: DeepSeek-V3 (arXiv 2412.19437, section 3.3.2): blocks of 128 x 128; the file holds what to multiply by.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from meshwright.costmodel.errors import ModelError

SUFFIX = "_scale_inv"
Block = tuple[int, int]


def read_block(config: Mapping[str, object], where: str) -> Block | None:
    """Rows and columns of a block by a config.json, None where weights are not quantized; raises `ModelError`."""
    found = config.get("quantization_config")
    if found is None:
        return None
    method = found.get("quant_method") if isinstance(found, dict) else found
    if not isinstance(found, dict) or method != "fp8":
        raise ModelError(where, "quantization_config.quant_method", f"{method!r:.60}, expected fp8, or no quantization")
    size = found.get("weight_block_size")
    if not isinstance(size, list) or len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
        raise ModelError(where, "quantization_config.weight_block_size", f"{size!r:.60}, expected rows and columns")
    return size[0], size[1]


def scales_shape(shape: tuple[int, ...], block: Block) -> tuple[int, ...]:
    """The shape of the scales of a matrix.

    >>> scales_shape((576, 7168), (128, 128))
    (5, 56)
    """
    return tuple(-(-size // side) for size, side in zip(shape, block, strict=True))


def dequantized(weight: Tensor, scales: Tensor, block: Block) -> Tensor:
    """The matrix in float32."""
    rows, columns = weight.shape
    spread = scales.to(torch.float32).repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
    return weight.to(torch.float32) * spread[:rows, :columns]
