"""Dense products: cuBLAS in BF16 and in FP8 with one scale a tensor, in the layouts that training uses."""

from __future__ import annotations

from collections.abc import Callable

import torch

from meshwright.costmodel.program.operators import GemmWork, Pass, Precision
from meshwright.executor.measure_hardware.operators.runnable import LIMITS, Runnable, relative_error
from meshwright.executor.measure_hardware.operators.values import normal, normal_fp8, scale_of_one, unwritten


def dense_product(work: GemmWork, device: torch.device, num_sets: int) -> Runnable:
    """The product of `work`; accumulation adds to an FP32 buffer as fused weight gradients do."""
    build = _fp8 if work.precision is Precision.FP8 else _bf16
    left, right, run = build(work, device, num_sets)

    def check() -> float:
        result = run(0)
        reference = left(0).float() @ right(0).float()
        return relative_error(result, reference)

    return Runnable(run=run, num_sets=num_sets, check=check, limit=LIMITS[work.precision])


Operand = Callable[[int], torch.Tensor]
Parts = tuple[Operand, Operand, Callable[[int], torch.Tensor]]


def _bf16(work: GemmWork, device: torch.device, num_sets: int) -> Parts:
    """FORWARD x W^T, DGRAD dy W, WGRAD x^T dy: the transposed side is a view of how it is stored."""
    left = _stored((num_sets, work.m, work.k), device, transposed=work.direction is Pass.WGRAD)
    right = _stored((num_sets, work.k, work.n), device, transposed=work.direction is Pass.FORWARD)
    if work.accumulates_fp32:
        # Zero at first, so that the first run can be checked.
        sums = torch.zeros((num_sets, work.m, work.n), device=device, dtype=torch.float32)
        return left, right, lambda index: _add_product(sums[index], left(index), right(index))
    out = unwritten((num_sets, work.m, work.n), device)
    return left, right, lambda index: torch.mm(left(index), right(index), out=out[index])


def _stored(shape: tuple[int, int, int], device: torch.device, *, transposed: bool) -> Operand:
    sets, rows, columns = shape
    if transposed:
        values = normal((sets, columns, rows), device)
        return lambda index: values[index].t()
    values = normal(shape, device)
    return lambda index: values[index]


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Total += left right, in one kernel where the GPU's library has it (BF16 inputs, FP32 sum)."""
    if total.is_cuda:
        torch.ops.aten.addmm.dtype_out(total, left, right, torch.float32, out=total)
        return total
    return total.add_(torch.mm(left, right))


def _fp8(work: GemmWork, device: torch.device, num_sets: int) -> Parts:
    """Hopper multiplies FP8 in one layout only (both sides by depth), so every direction is stored that way.

    Fast accumulation is on forward and for dgrad, off for wgrad, as frameworks have it. There is no FP8 product that
    adds to a buffer: it is written in FP32 and added.
    """
    lefts = normal_fp8((num_sets, work.m, work.k), device)
    rights = normal_fp8((num_sets, work.n, work.k), device)
    scale, fast = scale_of_one(device), work.direction is not Pass.WGRAD
    dtype = torch.float32 if work.accumulates_fp32 else torch.bfloat16
    sums = torch.zeros((num_sets, work.m, work.n), device=device, dtype=dtype) if work.accumulates_fp32 else None

    def product(index: int) -> torch.Tensor:
        if device.type == "cpu":
            return (lefts[index].float() @ rights[index].float().t()).to(dtype)
        return torch._scaled_mm(
            lefts[index], rights[index].t(), scale_a=scale, scale_b=scale, out_dtype=dtype, use_fast_accum=fast
        )

    def run(index: int) -> torch.Tensor:
        return product(index) if sums is None else sums[index].add_(product(index))

    return (lambda index: lefts[index]), (lambda index: rights[index].t()), run
