"""Measured times brought to one clock: that of a training step.

Under its power limit a GPU changes its clocks within milliseconds, by up to a fifth. What is limited by arithmetic
takes the same cycles at any clock, so every sample has the mean SM clock during its own runs, by the GPU's counters. A
dense layer that runs for seconds, clocks settled, says which clock belongs to a training step.

Samples without a clock go by a reference product that ran right beside them: what is limited by arithmetic takes time
in proportion to it, and the layer says which reference time belongs to a training step.
"""

from __future__ import annotations

from statistics import median

import msgspec

from meshwright.costmodel.formulas.attention import attention_flops
from meshwright.costmodel.formulas.matmul import gemm_bytes, gemm_flops, grouped_gemm_bytes
from meshwright.costmodel.hardware import GpuSpec
from meshwright.costmodel.program.operators import AttentionWork, GemmWork, GroupedGemmWork, MemoryWork, Work
from meshwright.hardware_profiles.measurements import Measurements, Purpose, Sample, SustainedSample


def training_clock_hz(measurements: Measurements) -> float | None:
    """The SM clock of a training step: the layer's where one was measured, else the median of samples'.

    Of samples that tables are built from: those that judge them (CHECK) decide nothing.
    """
    layer = measurements.sustained
    if layer is not None and layer.together_clock_hz is not None:
        return layer.together_clock_hz
    clocks = [sample.clock_hz for sample in _fitted_to(measurements) if sample.clock_hz is not None]
    return median(clocks) if clocks else None


def training_reference_s(measurements: Measurements) -> float | None:
    """The reference product's time in a training step: the layer's where one was measured, else the median of samples'.

    As for the clock, CHECK samples decide nothing. None where no sample has a reference.
    """
    if measurements.sustained is not None:
        return sustained_reference_s(measurements.sustained)
    references = [sample.reference_s for sample in _fitted_to(measurements) if sample.reference_s is not None]
    return median(references) if references else None


def _fitted_to(measurements: Measurements) -> tuple[Sample, ...]:
    return tuple(sample for sample in measurements.samples if sample.purpose is Purpose.FIT)


def sustained_reference_s(layer: SustainedSample) -> float:
    """The reference time R at which the layer's operators add up to their time together.

    Equation: together = sum of memory-bound + R sum(alone / reference) of the others.
    """
    memory_s = arithmetic = 0.0
    for work, alone_s, reference_s in zip(layer.works, layer.alone_s, layer.references_s, strict=True):
        if isinstance(work, MemoryWork):
            memory_s += alone_s
        else:
            arithmetic += alone_s / reference_s
    return (layer.together_s - memory_s) / arithmetic


def at_training_clocks(
    sample: Sample, gpu: GpuSpec, reference_s: float | None, clock_hz: float | None = None
) -> Sample:
    """The sample as it would be in a training step; unchanged where memory sets its pace.

    There the SM clock is `clock_hz`, the time of the reference product `reference_s`. The clock counts where it is
    given and the sample has one, else the reference.
    """
    if not is_bound_by_arithmetic(sample.work, gpu):
        return sample
    if clock_hz is not None and sample.clock_hz is not None:
        return msgspec.structs.replace(_slower(sample, sample.clock_hz / clock_hz), clock_hz=clock_hz)
    if reference_s is not None and sample.reference_s is not None:
        return msgspec.structs.replace(_slower(sample, reference_s / sample.reference_s), reference_s=reference_s)
    return sample


def _slower(sample: Sample, factor: float) -> Sample:
    return msgspec.structs.replace(
        sample, time_s=sample.time_s * factor, low_s=sample.low_s * factor, high_s=sample.high_s * factor
    )


def is_bound_by_arithmetic(work: Work, gpu: GpuSpec) -> bool:
    """Whether arithmetic at its peak takes longer than compulsory traffic at the speed of a copy."""
    match work:
        case GemmWork():
            flops, num_bytes = gemm_flops(work.m, work.n, work.k), gemm_bytes(work)
        case GroupedGemmWork():
            flops, num_bytes = gemm_flops(work.rows, work.n, work.k), grouped_gemm_bytes(work)
        case AttentionWork():
            return attention_flops(work) > 0.0
        case _:
            return False
    return flops / gpu.peak_flops_per_s(work.precision) > num_bytes / gpu.copy_bytes_per_s
