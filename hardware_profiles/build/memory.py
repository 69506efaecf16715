"""Memory-bound kernels from samples: time against bytes, a straight line for each family and way of running it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from meshwright.costmodel.errors import ProfileError
from meshwright.costmodel.hardware import GpuSpec, HardwareProfile
from meshwright.costmodel.program.operators import MemoryKernel, MemoryWork
from meshwright.costmodel.tables import MemoryShare, Provenance
from meshwright.hardware_profiles.measurements import Implementation, Sample

LEAST_SHARE = 1e-3
SHARE_DIGITS, TIME_DIGITS = 4, 9


class Kind(NamedTuple):
    """A family of kernels, and whether they compute gradients."""

    kernel: MemoryKernel
    backward: bool


class Point(NamedTuple):
    """Bytes that a sample moved, and the seconds it took."""

    num_bytes: float
    time_s: float


class Line(NamedTuple):
    """Seconds = start + bytes / (share x copy bandwidth)."""

    share: float
    start_s: float


def memory_shares(
    samples: Iterable[Sample], profile: HardwareProfile, provenance: Provenance
) -> tuple[MemoryShare, ...]:
    """An entry for each family and direction, in eager code and fused.

    Where PyTorch ships a single kernel and no eager code was measured, eager code calls that kernel. Fused is compiled
    or shipped, whichever is faster at each size. What was not measured is the base's.
    """
    points = _points(samples)
    base = {Kind(share.kernel, share.backward): share for share in profile.memory}
    entries = []
    for kind in dict.fromkeys(kind for kind, _ in points):
        shipped = points.get((kind, Implementation.FUSED), [])
        fused = _fastest([*points.get((kind, Implementation.COMPILED), []), *shipped])
        eager = points.get((kind, Implementation.EAGER), []) or shipped
        known = _nearest(kind, base)
        fused_line = line(fused, profile.gpu) or Line(known.fused, known.fused_start_s)
        eager_line = line(eager, profile.gpu) or Line(known.eager, known.eager_start_s)
        entries.append(
            MemoryShare(
                kernel=kind.kernel,
                backward=kind.backward,
                fused=fused_line.share,
                fused_start_s=fused_line.start_s,
                eager=eager_line.share,
                eager_start_s=eager_line.start_s,
                provenance=provenance,
            )
        )
    return tuple(entries)


def _nearest(kind: Kind, base: dict[Kind, MemoryShare]) -> MemoryShare:
    """What the base has of a family: its backward, its forward, or permutations for sums of rows."""
    for kernel in (kind.kernel, MemoryKernel.PERMUTE):
        for backward in (kind.backward, False):
            if Kind(kernel, backward) in base:
                return base[Kind(kernel, backward)]
    raise ProfileError("profile", f"memory.{kind.kernel.value}", "is missing; expected a share of copy speed")


def _points(samples: Iterable[Sample]) -> dict[tuple[Kind, Implementation], list[Point]]:
    points: dict[tuple[Kind, Implementation], list[Point]] = defaultdict(list)
    for sample in samples:
        work = sample.work
        if isinstance(work, MemoryWork) and sample.gpu == 0 and sample.implementation is not Implementation.CUSTOM:
            point = Point(work.read_bytes + work.write_bytes, sample.time_s)
            points[Kind(work.kernel, work.backward), sample.implementation].append(point)
    return points


def _fastest(points: list[Point]) -> list[Point]:
    """The least time at each number of bytes."""
    least: dict[float, float] = {}
    for num_bytes, time_s in points:
        least[num_bytes] = min(time_s, least.get(num_bytes, time_s))
    return [Point(num_bytes, time_s) for num_bytes, time_s in least.items()]


def line(points: list[Point], gpu: GpuSpec) -> Line | None:
    """The straight line of least squares of the relative error; no faster than a copy, no start below zero.

    With one size, all of its time is traffic.
    """
    if not points:
        return None
    weights = [(1.0 / time_s, num_bytes / gpu.copy_bytes_per_s / time_s) for num_bytes, time_s in points]
    a11, a12, a22 = (sum(w[i] * w[j] for w in weights) for i, j in ((0, 0), (0, 1), (1, 1)))
    b1, b2 = (sum(w[i] for w in weights) for i in (0, 1))
    determinant = a11 * a22 - a12 * a12
    start_s = (b1 * a22 - b2 * a12) / determinant if determinant > 1e-9 * a11 * a22 else 0.0
    slope = (b2 - a12 * max(0.0, start_s)) / a22
    if slope < 1.0:
        slope, start_s = 1.0, (b1 - a12) / a11
    share = max(LEAST_SHARE, round(1.0 / slope, SHARE_DIGITS))
    return Line(share=share, start_s=round(max(0.0, start_s), TIME_DIGITS))
