"""Grouped products of experts: `torch._grouped_mm`, and its FP8 form with one scale a row."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from meshwright.costmodel.program.operators import GroupedGemmWork, Pass, Precision
from meshwright.executor.measure_hardware.operators.runnable import LIMITS, Runnable, relative_error
from meshwright.executor.measure_hardware.operators.values import normal, normal_fp8


def grouped_product(
    work: GroupedGemmWork, rows_per_group: tuple[int, ...], device: torch.device, num_sets: int
) -> Runnable:
    """The products of `work`; `rows_per_group` empty: even."""
    counts = rows_per_group or even_rows(round(work.rows), work.num_groups)
    offsets = torch.tensor(counts, device=device).cumsum(0).to(torch.int32)
    build = _fp8 if work.precision is Precision.FP8 else _bf16
    left, right, product = build(work, device, num_sets, offsets)
    run = _accumulated(work, device, num_sets, product) if work.accumulates_fp32 else product

    def check() -> float:
        result = run(0)
        reference = torch.cat([part.flatten() for part in _reference(work, counts, left(0), right(0))])
        return relative_error(result.flatten(), reference)

    return Runnable(run=run, num_sets=num_sets, check=check, limit=LIMITS[work.precision])


def even_rows(rows: int, groups: int) -> tuple[int, ...]:
    """`rows` over `groups`, the first ones taking what is left."""
    each, left = divmod(rows, groups)
    return tuple(each + (group < left) for group in range(groups))


Operand = Callable[[int], torch.Tensor]
Parts = tuple[Operand, Operand, Callable[[int], torch.Tensor]]


def _bf16(work: GroupedGemmWork, device: torch.device, num_sets: int, offsets: torch.Tensor) -> Parts:
    rows, groups = round(work.rows), work.num_groups
    if work.direction is Pass.WGRAD:
        inputs, gradients = normal((num_sets, rows, work.k), device), normal((num_sets, rows, work.n), device)
        left: Operand = lambda index: inputs[index].t()  # noqa: E731
        right: Operand = lambda index: gradients[index]  # noqa: E731
    else:
        inputs = normal((num_sets, rows, work.k), device)
        is_forward = work.direction is Pass.FORWARD
        weights = normal((num_sets, groups, *((work.n, work.k) if is_forward else (work.k, work.n))), device)
        left = lambda index: inputs[index]  # noqa: E731
        right = lambda index: weights[index].transpose(-2, -1) if is_forward else weights[index]  # noqa: E731
    return left, right, lambda index: torch._grouped_mm(left(index), right(index), offs=offsets)


def _fp8(work: GroupedGemmWork, device: torch.device, num_sets: int, offsets: torch.Tensor) -> Parts:
    """Both sides stored by depth, as the one FP8 layout asks; scales of one."""
    rows, groups, is_wgrad = round(work.rows), work.num_groups, work.direction is Pass.WGRAD
    if is_wgrad:
        inputs, others = normal_fp8((num_sets, work.k, rows), device), normal_fp8((num_sets, work.n, rows), device)
        scales = (torch.ones(work.k * groups, device=device), torch.ones(work.n * groups, device=device))
    else:
        inputs = normal_fp8((num_sets, rows, work.k), device)
        others = normal_fp8((num_sets, groups, work.n, work.k), device)
        scales = (torch.ones(rows, device=device), torch.ones((groups, work.n), device=device))

    def product(index: int) -> torch.Tensor:
        return torch._scaled_grouped_mm(
            inputs[index],
            others[index].transpose(-2, -1),
            *scales,
            offs=offsets,
            out_dtype=torch.bfloat16,
            use_fast_accum=not is_wgrad,
        )

    return (lambda index: inputs[index]), (lambda index: others[index].transpose(-2, -1)), product


def _accumulated(
    work: GroupedGemmWork, device: torch.device, num_sets: int, product: Callable[[int], torch.Tensor]
) -> Callable[[int], torch.Tensor]:
    """No grouped product adds to a buffer: it is written and added."""
    sums = torch.zeros((num_sets, work.num_groups, work.k, work.n), device=device, dtype=torch.float32)
    return lambda index: sums[index].add_(product(index))


def _reference(
    work: GroupedGemmWork, counts: tuple[int, ...], left: torch.Tensor, right: torch.Tensor
) -> Iterator[torch.Tensor]:
    """One product a group, in float32."""
    start = 0
    for group, count in enumerate(counts):
        span = slice(start, start + count)
        if work.direction is Pass.WGRAD:
            yield left[:, span].float() @ right[span].float()
        else:
            yield left[span].float() @ right[group].float()
        start += count
