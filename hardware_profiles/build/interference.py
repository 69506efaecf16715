"""What communication costs the computation beside it, and the other way round, from samples."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import msgspec

from meshwright.costmodel.hardware import Interference
from meshwright.costmodel.program.operators import GemmWork, GroupedGemmWork
from meshwright.hardware_profiles.measurements import Implementation, InterferenceSample

DIGITS = 3


def interference(samples: Sequence[InterferenceSample], base: Interference) -> Interference:
    """Medians over products beside NCCL's collectives as NCCL sets them up; the base where nothing was measured."""
    chosen = [
        sample
        for sample in samples
        if sample.implementation is Implementation.NCCL
        and sample.num_ctas == 0
        and isinstance(sample.compute, GemmWork | GroupedGemmWork)
    ]
    if not chosen:
        return base
    compute = median(sample.compute_beside_s / sample.compute_alone_s for sample in chosen)
    communication = median(sample.communication_beside_s / sample.communication_alone_s for sample in chosen)
    return msgspec.structs.replace(
        base,
        compute_slowdown=round(max(1.0, compute), DIGITS),
        communication_slowdown=round(max(1.0, communication), DIGITS),
    )
