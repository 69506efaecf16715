"""Activations that travel in FP8: a cast before the collective, a cast (or an FP32 sum) after it.

As MegaScale-MoE does in FP8 training (arXiv 2505.11432, section 5): a reduce-scatter becomes an all-to-all of FP8 parts
with a local sum in FP32, an all-gather or all-to-all carries FP8. One scale a token is left out of the bytes.
"""

from __future__ import annotations

import msgspec

from meshwright.costmodel.program.operators import Axis, Collective, CollectiveWork, MemoryKernel, MemoryWork, Work
from meshwright.costmodel.value import Value

COMPRESSED_AXES = (Axis.TENSOR, Axis.EXPERT)


class Step(Value, frozen=True, kw_only=True):
    """An operator to be: its name, work, tensors and axis."""

    name: str
    work: Work
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    axis: Axis | None


class Wire(Value, frozen=True, kw_only=True):
    """The steps of a compressed collective, and the tensors between them with their bytes."""

    steps: tuple[Step, ...]
    tensors: tuple[tuple[str, float], ...]


def compress(
    name: str, work: CollectiveWork, reads: tuple[str, ...], writes: tuple[str, ...], axis: Axis | None
) -> Wire:
    """The casts and the collective, whose bytes are halved; an all-reduce is left as it is."""
    if work.collective not in (Collective.ALL_GATHER, Collective.REDUCE_SCATTER, Collective.ALL_TO_ALL):
        return Wire(steps=(Step(name=name, work=work, reads=reads, writes=writes, axis=axis),), tensors=())
    gathers, reduces = work.collective is Collective.ALL_GATHER, work.collective is Collective.REDUCE_SCATTER
    sent = work.num_bytes / (work.group.size if gathers else 1)
    received = work.num_bytes / (work.group.size if reduces else 1)
    arrived = work.num_bytes / 2
    moved = msgspec.structs.replace(
        work, num_bytes=arrived, collective=Collective.ALL_TO_ALL if reduces else work.collective
    )
    before = MemoryWork(kernel=MemoryKernel.CAST, read_bytes=sent, write_bytes=sent / 2)
    after = MemoryWork(kernel=MemoryKernel.CAST, read_bytes=arrived, write_bytes=received)
    out, back = f"{name}.sent.fp8", f"{name}.received.fp8"
    return Wire(
        steps=(
            Step(name=f"{name}.quantize", work=before, reads=reads, writes=(out,), axis=None),
            Step(name=name, work=moved, reads=(out,), writes=(back,), axis=axis),
            Step(name=f"{name}.dequantize", work=after, reads=(back,), writes=writes, axis=None),
        ),
        tensors=((out, sent / 2), (back, arrived)),
    )
