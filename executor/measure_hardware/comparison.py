"""Measured against the data sheet: the best figure of each kind, beside what the vendor prints."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from meshwright.costmodel.formulas.attention import attention_flops
from meshwright.costmodel.formulas.matmul import gemm_flops, grouped_gemm_flops
from meshwright.costmodel.hardware import GpuSpec
from meshwright.costmodel.program.operators import (
    AttentionWork,
    Collective,
    CollectiveWork,
    CopyWork,
    GemmWork,
    GroupedGemmWork,
    MemoryKernel,
    MemoryWork,
    Precision,
    Resource,
    Work,
)
from meshwright.costmodel.program.program import sent_bytes
from meshwright.hardware_profiles.measurements import Implementation, Measurements, Sample

TERA, GIGA, GIB = 1e12, 1e9, 2.0**30
TFLOPS, GBPS = "TFLOP/s", "GB/s"
HOST_COPY = "host copy, beside the base profile's"
"""Of which no data sheet of a GPU says what copies reach."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One figure, in `unit`. `data_sheet` 0: the vendor prints none."""

    figure: str
    unit: str
    measured: float
    data_sheet: float

    @property
    def share(self) -> float:
        """Measured over printed; 0 where nothing is printed."""
        return self.measured / self.data_sheet if self.data_sheet else 0.0


def comparisons(measurements: Measurements, gpu: GpuSpec) -> tuple[Comparison, ...]:
    """Figures of which there is a sample."""
    samples = measurements.samples
    rows = [
        _row("dense product, BF16", TFLOPS, _rates(samples, _dense(Precision.BF16)), gpu.bf16_flops_per_s / TERA),
        _row("dense product, FP8", TFLOPS, _rates(samples, _dense(Precision.FP8)), gpu.fp8_flops_per_s / TERA),
        _row("grouped product, BF16", TFLOPS, _rates(samples, _grouped(Precision.BF16)), gpu.bf16_flops_per_s / TERA),
        _row("grouped product, FP8", TFLOPS, _rates(samples, _grouped(Precision.FP8)), gpu.fp8_flops_per_s / TERA),
    ]
    for backward, words in ((False, "forward"), (True, "backward")):
        rates = _rates(samples, _attention(backward=backward))
        rows.append(_row(f"attention {words}", TFLOPS, rates, gpu.bf16_flops_per_s / TERA))
    rows.append(_row("device copy", GBPS, _rates(samples, _copied), gpu.memory_bytes_per_s / GIGA))
    rows.append(_row(HOST_COPY, GBPS, _rates(samples, _host_copied), gpu.pcie_bytes_per_s / GIGA))
    rows += _links(samples, gpu)
    machine = measurements.machine
    usable = machine.usable_memory_bytes / GIB
    memory = Comparison(
        figure="usable memory", unit="GiB", measured=usable, data_sheet=machine.total_memory_bytes / GIB
    )
    return (*(row for row in rows if row is not None), memory)


Amount = Callable[[Work], float]


def _row(figure: str, unit: str, rates: Iterable[float], data_sheet: float) -> Comparison | None:
    best = max(rates, default=0.0)
    scale = TERA if unit == TFLOPS else GIGA
    return Comparison(figure=figure, unit=unit, measured=best / scale, data_sheet=data_sheet) if best else None


def _rates(samples: Iterable[Sample], amount: Amount) -> list[float]:
    return [amount(sample.work) / sample.time_s for sample in samples]


def _dense(precision: Precision) -> Amount:
    def amount(work: Work) -> float:
        chosen = isinstance(work, GemmWork) and work.precision is precision
        return gemm_flops(work.m, work.n, work.k) if chosen and isinstance(work, GemmWork) else 0.0

    return amount


def _grouped(precision: Precision) -> Amount:
    def amount(work: Work) -> float:
        return grouped_gemm_flops(work) if isinstance(work, GroupedGemmWork) and work.precision is precision else 0.0

    return amount


def _attention(*, backward: bool) -> Amount:
    def amount(work: Work) -> float:
        return attention_flops(work) if isinstance(work, AttentionWork) and work.backward is backward else 0.0

    return amount


def _copied(work: Work) -> float:
    is_copy = isinstance(work, MemoryWork) and work.kernel is MemoryKernel.COPY
    return work.read_bytes + work.write_bytes if is_copy and isinstance(work, MemoryWork) else 0.0


def _host_copied(work: Work) -> float:
    return work.num_bytes if isinstance(work, CopyWork) else 0.0


def _links(samples: tuple[Sample, ...], gpu: GpuSpec) -> list[Comparison | None]:
    """Bytes that cross a rank's link, over the time: what NCCL's tests call bus bandwidth."""
    rows: list[Comparison | None] = []
    even = [s for s in samples if isinstance(s.work, CollectiveWork) and not s.peer_shares]
    for size in sorted({s.work.group.size for s in even if isinstance(s.work, CollectiveWork)}):
        for collective in Collective:
            for implementation in (Implementation.NCCL, Implementation.COPY_ENGINE):
                rates = [
                    sent_bytes(s.work) / s.time_s
                    for s in even
                    if isinstance(s.work, CollectiveWork)
                    and s.work.collective is collective
                    and s.work.group.size == size
                    and s.work.group.resource is Resource.NVLINK
                    and s.implementation is implementation
                ]
                words = "copy engines" if implementation is Implementation.COPY_ENGINE else "NCCL"
                figure = f"{collective.value.replace('_', '-')}, {size} GPUs, {words}"
                rows.append(_row(figure, GBPS, rates, gpu.nvlink_bytes_per_s / GIGA))
    return rows
