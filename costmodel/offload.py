"""Activations that wait in host memory: the FFN's widest kept tensors leave after the forward and return for backward.

A layer's copies are operators of its program, on the copy engine. They are those of its neighbour, whose tensors leave
while this layer's forward runs and return while its backward does, so they wait for nothing in the pass. Two layers'
tensors are on the GPU at a time: the one in use and the one under way. The network adapter uses the same PCIe link, so
a copy takes longer by the network's share of it; computation beside it is slower by the copy's share of GPU memory
bandwidth (`pcie.memory_share_of_copies`), so that nothing leaves where there is room for it.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec

from meshwright.costmodel.layer_cost import LayerCost
from meshwright.costmodel.program.operators import CopyWork, Operator, Pass
from meshwright.costmodel.program.program import LayerProgram
from meshwright.costmodel.program.recompute import COPIES, plan_backward
from meshwright.costmodel.strategy import Recompute

OFFLOADED = ("fc1_out", "fc3_out", "shared_fc1_out", "shared_fc3_out")


def offloaded_bytes(program: LayerProgram, recompute: Recompute) -> float:
    """Bytes of one micro-batch that leave the GPU."""
    sizes, kept = program.sizes(), plan_backward(program, recompute).kept
    return sum(sizes[name] for name in OFFLOADED if name in kept)


@lru_cache(maxsize=16384)
def with_copies(program: LayerProgram, recompute: Recompute) -> LayerProgram:
    """The program with the copies to the host in its forward and those back in its backward."""
    num_bytes = offloaded_bytes(program, recompute)
    return msgspec.structs.replace(
        program,
        forward=(_copy("offload", Pass.FORWARD, num_bytes), *program.forward),
        backward=(_copy("reload", Pass.DGRAD, num_bytes), *program.backward),
    )


def _copy(name: str, phase: Pass, num_bytes: float) -> Operator:
    work = CopyWork(num_bytes=num_bytes)
    return Operator(name=name, module=COPIES, phase=phase, work=work, reads=(), writes=())


def without_offloaded(cost: LayerCost, num_bytes: float) -> LayerCost:
    """The cost of a layer that keeps so many bytes less until its backward, and has twice as many in passing."""
    return msgspec.structs.replace(
        cost,
        kept_bytes=cost.kept_bytes - num_bytes,
        late_bytes=cost.late_bytes + num_bytes,
        transient_bytes=cost.transient_bytes + 2.0 * num_bytes,
    )
