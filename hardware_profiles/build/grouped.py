"""Tables of grouped products from samples: their rate relative to the dense product of the same rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from statistics import median

import msgspec

from meshwright.costmodel.hardware import HardwareProfile
from meshwright.costmodel.operator_time import operator_timing
from meshwright.costmodel.program.operators import GroupedGemmWork, Pass, Precision
from meshwright.costmodel.tables import GroupedGemmTable, Provenance
from meshwright.hardware_profiles.build.alone import one_node
from meshwright.hardware_profiles.measurements import Sample

DIGITS = 4
"""Significant enough: a sample's own spread is a percent."""


def grouped_tables(
    samples: Iterable[Sample], profile: HardwareProfile, provenance: Provenance
) -> tuple[GroupedGemmTable, ...]:
    """A table for each precision and for weight gradients: the median over shapes at each number of rows a group."""
    shares: dict[tuple[Precision, bool], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for sample in samples:
        work = sample.work
        if isinstance(work, GroupedGemmWork) and not sample.rows_per_group:
            kind = (work.precision, work.direction is Pass.WGRAD)
            shares[kind][work.rows / work.num_groups].append(_share(work, sample.time_s, profile))
    return tuple(
        GroupedGemmTable(
            precision=precision,
            weight_gradient=is_wgrad,
            rows_per_group=tuple(sorted(by_rows)),
            shares=tuple(round(median(by_rows[rows]), DIGITS) for rows in sorted(by_rows)),
            provenance=provenance,
        )
        for (precision, is_wgrad), by_rows in shares.items()
    )


def _share(work: GroupedGemmWork, time_s: float, profile: HardwareProfile) -> float:
    """What the model says at a share of 1, over the measured time."""
    flat = GroupedGemmTable(
        precision=work.precision,
        weight_gradient=work.direction is Pass.WGRAD,
        rows_per_group=(1.0,),
        shares=(1.0,),
        provenance=profile.gemm[0].provenance,
    )
    even = msgspec.structs.replace(profile, grouped_gemm=(flat,))
    return operator_timing(work, one_node(even)).time_s / time_s
