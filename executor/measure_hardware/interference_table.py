"""Computation and communication beside each other as rows of text: how much longer each takes than alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

from meshwright.costmodel.program.operators import GemmWork, GroupedGemmWork, MemoryWork, Work
from meshwright.hardware_profiles.measurements import Implementation, InterferenceSample

TITLE = "Beside each other: computation x over alone, communication x over alone"
ALONE = ("thread blocks", "alone, x own choice's")


def interference_table(samples: Sequence[InterferenceSample]) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Columns and rows: a column for each computation, a row for each way to communicate, medians over collectives."""
    computes = {_name(sample.compute): sample.compute for sample in samples}
    ways = sorted({_way(sample) for sample in samples})
    return (*ALONE, *computes), tuple(_row(way, tuple(computes.values()), samples) for way in ways)


def _name(compute: Work) -> str:
    match compute:
        case GemmWork():
            return f"product {compute.m}x{compute.n}x{compute.k}"
        case GroupedGemmWork():
            return f"{compute.num_groups} groups, {compute.rows:.0f}x{compute.n}x{compute.k}"
        case MemoryWork():
            return f"memory-bound, {(compute.read_bytes + compute.write_bytes) / 2**20:.0f} MiB"
        case _:
            return type(compute).__name__


def _way(sample: InterferenceSample) -> tuple[bool, int]:
    """Copy engines or not, thread blocks; sorts NCCL's own choice first and copy engines last."""
    return sample.implementation is Implementation.COPY_ENGINE, sample.num_ctas


def _row(way: tuple[bool, int], computes: Sequence[Work], samples: Sequence[InterferenceSample]) -> tuple[str, ...]:
    by_copy_engines, num_ctas = way
    title = "copy engines" if by_copy_engines else f"{num_ctas}" if num_ctas else "its own choice"
    own = [sample for sample in samples if _way(sample) == way]
    alone = "" if by_copy_engines else _times(own, lambda sample: _over_own_choice(sample, samples))
    beside = (_beside([sample for sample in own if sample.compute == compute]) for compute in computes)
    return (title, alone, *beside)


def _over_own_choice(sample: InterferenceSample, samples: Sequence[InterferenceSample]) -> float | None:
    """Alone over alone as NCCL sets the same collective up; None where that was not measured."""
    pair = (sample.compute, sample.communication)
    chosen = [
        other.communication_alone_s
        for other in samples
        if _way(other) == (False, 0) and (other.compute, other.communication) == pair
    ]
    return sample.communication_alone_s / chosen[0] if chosen else None


def _beside(samples: Sequence[InterferenceSample]) -> str:
    compute = _times(samples, lambda sample: sample.compute_beside_s / sample.compute_alone_s)
    communication = _times(samples, lambda sample: sample.communication_beside_s / sample.communication_alone_s)
    return f"{compute}, {communication}" if compute else ""


def _times(samples: Sequence[InterferenceSample], ratio: Callable[[InterferenceSample], float | None]) -> str:
    ratios = [found for sample in samples if (found := ratio(sample)) is not None]
    return f"{median(ratios):.2f}" if ratios else ""
