"""SwiGLU to FP8 in plain PyTorch: the truth, on any device."""

from __future__ import annotations

from torch import Tensor

from meshwright.kernels.index.contract import RowMap
from meshwright.kernels.swiglu.reference import product
from meshwright.kernels.swiglu_fp8.contract import BLOCK, FORMAT, LARGEST, LEAST_AMAX, QuantizedSwiglu


def swiglu_fp8_reference(
    gate_PF: Tensor, up_PF: Tensor, weights_P: Tensor | None, rowmap: RowMap | None
) -> QuantizedSwiglu:
    """The product, quantized along rows and along columns."""
    out = product(gate_PF, up_PF, weights_P, rowmap)
    rows, row_scales = quantized(out)
    columns, column_scales = quantized(out.t())
    return QuantizedSwiglu(
        rows_PF=rows, row_scales=row_scales, columns_FP=columns, column_scales=column_scales.t().contiguous()
    )


def quantized(x_MN: Tensor) -> tuple[Tensor, Tensor]:
    """E4m3 numbers, (M, N), and a scale for 128 of a row, (M, N / 128)."""
    blocks = x_MN.unflatten(1, (-1, BLOCK))
    scales = blocks.abs().amax(-1).clamp(min=LEAST_AMAX) / LARGEST
    numbers = (blocks / scales.unsqueeze(-1)).clamp(-LARGEST, LARGEST)
    return numbers.flatten(1).to(FORMAT).contiguous(), scales.float().contiguous()


def dequantized(numbers_MN: Tensor, scales: Tensor) -> Tensor:
    """The numbers that e4m3 and scales stand for, float32."""
    blocks = numbers_MN.float().unflatten(1, (-1, BLOCK))
    scaled: Tensor = blocks * scales.unsqueeze(-1)
    return scaled.flatten(1)
