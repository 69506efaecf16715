"""Shared by the tests of operator orders: passes written as a few lines."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from meshwright.costmodel.hardware import Interference
from meshwright.costmodel.order.pass_problem import PassProblem, pass_problem
from meshwright.costmodel.overlap import LayerOverlap, OverlapLevel
from meshwright.costmodel.program.operators import (
    AttentionWork,
    Axis,
    Collective,
    CollectiveWork,
    CopyWork,
    GemmWork,
    Group,
    GroupedGemmWork,
    MemoryKernel,
    MemoryWork,
    Operator,
    Pass,
    Work,
)

NODE, NODES = Group(size=8, ranks_per_node=8), Group(size=16, ranks_per_node=8)
GEMM, GROUPED = GemmWork(m=1, n=1, k=1), GroupedGemmWork(num_groups=1, rows=1.0, n=1, k=1)
ATTENTION = AttentionWork(
    batch=1, num_heads=1, num_kv_heads=1, head_dim=1, value_head_dim=1, query_len=1, key_len=1, pairs=1.0
)


def _moved(collective: Collective, group: Group = NODE) -> Work:
    return CollectiveWork(collective=collective, num_bytes=1.0, group=group)


KINDS: dict[str, tuple[Work, Pass, Axis | None]] = {
    "gemm": (GEMM, Pass.FORWARD, None),
    "dgrad": (GEMM, Pass.DGRAD, None),
    "wgrad": (GEMM, Pass.WGRAD, None),
    "grouped": (GROUPED, Pass.FORWARD, None),
    "grouped wgrad": (GROUPED, Pass.WGRAD, None),
    "attention": (ATTENTION, Pass.FORWARD, None),
    "memory": (MemoryWork(kernel=MemoryKernel.NORM, read_bytes=1.0, write_bytes=1.0), Pass.FORWARD, None),
    "copy": (CopyWork(num_bytes=1.0), Pass.FORWARD, None),
    "tp gather": (_moved(Collective.ALL_GATHER), Pass.FORWARD, Axis.TENSOR),
    "tp gather, nodes": (_moved(Collective.ALL_GATHER, NODES), Pass.FORWARD, Axis.TENSOR),
    "tp scatter": (_moved(Collective.REDUCE_SCATTER), Pass.FORWARD, Axis.TENSOR),
    "sp exchange": (_moved(Collective.ALL_TO_ALL), Pass.FORWARD, Axis.SEQUENCE),
    "ep gather": (_moved(Collective.ALL_GATHER), Pass.FORWARD, Axis.EXPERT),
    "ep scatter": (_moved(Collective.REDUCE_SCATTER), Pass.FORWARD, Axis.EXPERT),
    "ep exchange": (_moved(Collective.ALL_TO_ALL), Pass.FORWARD, Axis.EXPERT),
    "ep exchange, nodes": (_moved(Collective.ALL_TO_ALL, NODES), Pass.FORWARD, Axis.EXPERT),
    "cp ring": (_moved(Collective.SEND_RECV), Pass.FORWARD, Axis.CONTEXT),
    "cp ring, nodes": (_moved(Collective.SEND_RECV, NODES), Pass.FORWARD, Axis.CONTEXT),
}
NO_INTERFERENCE = Interference(
    collective_sms=0, compute_slowdown=1.0, communication_slowdown=1.0, network_compute_slowdown=1.0
)

Line = tuple[str, str, tuple[str, ...], float]


@pytest.fixture
def made_up_pass() -> Callable[..., PassProblem]:
    """A pass of (name, kind, what it reads, seconds); every operator writes a tensor of its own name.

    `level` is that of all axes.
    """

    def make(
        *lines: Line,
        level: OverlapLevel = OverlapLevel.INTER_OPERATOR,
        interference: Interference = NO_INTERFERENCE,
        fused_share: float = 0.8,
        copying_loss: float = 0.0,
    ) -> PassProblem:
        operators = tuple(_operator(name, kind, reads) for name, kind, reads, _ in lines)
        overlap = LayerOverlap(tensor=level, sequence=level, context=level, expert=level, fused_share=fused_share)
        time_s = {name: seconds for name, _, _, seconds in lines}
        return pass_problem(operators, time_s, overlap, interference, copying_loss=copying_loss)

    return make


def _operator(name: str, kind: str, reads: tuple[str, ...]) -> Operator:
    work, phase, axis = KINDS[kind]
    return Operator(name=name, module="made-up", phase=phase, work=work, reads=reads, writes=(name,), axis=axis)
