"""What communication may hide under, inside one pass of one layer: a stated rule until the order is searched for.

The rule, by the level that a runtime grants each mesh axis:

* NONE: communication is exposed.
* INTER_OPERATOR: it hides under computation of the same pass that neither needs it nor is needed by it, which is what
  ordering operators on several streams can reach at best.
* FUSED: also under the matrix products that feed it or consume it directly, as tile-by-tile fused kernels do; there at
  most `fused_share` of it hides, since the first and last tiles have nothing to hide under. Fused kernels read and
  write peers' memory over NVLink; what crosses nodes is treated as INTER_OPERATOR.
* INTER_BATCH: under any computation of the pass, since another micro-batch runs beside it (DualPipe, Megatron-Core's
  overlap of expert-parallel communication with 1F1B); pairs of passes are taken to balance.

Every second of computation is lent only once. Hidden communication slows the computation beside it by the profile's
measured interference. The scheduler that finds an order replaces `hide_communication` and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache

from meshwright.costmodel.errors import InputError
from meshwright.costmodel.hardware import Interference
from meshwright.costmodel.program.operators import Axis, GemmWork, GroupedGemmWork, Operator, Resource
from meshwright.costmodel.value import Value


class OverlapLevel(StrEnum):
    """How far communication of one axis may hide."""

    NONE = "none"
    INTER_OPERATOR = "inter-operator"
    FUSED = "fused"
    INTER_BATCH = "inter-batch"


class LayerOverlap(Value, frozen=True, kw_only=True):
    """The level granted to each mesh axis. `fused_share`: the most that a fused kernel hides of its communication."""

    tensor: OverlapLevel = OverlapLevel.NONE
    sequence: OverlapLevel = OverlapLevel.NONE
    context: OverlapLevel = OverlapLevel.NONE
    expert: OverlapLevel = OverlapLevel.NONE
    data: OverlapLevel = OverlapLevel.INTER_OPERATOR
    fused_share: float = 0.8

    def __post_init__(self) -> None:
        if not 0.0 <= self.fused_share <= 1.0:
            raise InputError("overlap", "fused_share", f"{self.fused_share} is not a share between 0 and 1")

    def level(self, axis: Axis) -> OverlapLevel:
        """The level granted to an axis."""
        level: OverlapLevel = getattr(self, axis.value)
        return level


class Hiding(Value, frozen=True, kw_only=True):
    """Seconds of each communication that stay exposed, in program order, and what the hidden rest costs computation."""

    exposed_s: tuple[tuple[str, float], ...]
    hidden_s: tuple[tuple[str, float], ...]
    slowdown_s: float


def hide_communication(
    operators: tuple[Operator, ...],
    time_s: Mapping[str, float],
    policy: LayerOverlap,
    interference: Interference,
) -> Hiding:
    """Apply the rule to one pass. `time_s` has the seconds of each operator when it runs alone."""
    lendable = {op.name: time_s[op.name] for op in operators if op.axis is None}
    on_nvlink = {op.name: op.resource is Resource.NVLINK for op in operators if op.axis is not None}
    slowdown_s = 0.0
    exposed: list[tuple[str, float]] = []
    hidden: list[tuple[str, float]] = []
    for name, share, names in _cover_table(_structure(operators), policy):
        compute_slowdown, window_per_s = interference.slowdowns(nvlink=on_nvlink[name])
        lent_per_s = window_per_s / compute_slowdown
        most = time_s[name] * share
        covered = 0.0
        for cover in names:
            taken = min(lendable[cover], (most - covered) * lent_per_s)
            lendable[cover] -= taken
            covered += taken / lent_per_s
        exposed.append((name, time_s[name] - covered))
        hidden.append((name, covered))
        slowdown_s += covered * (window_per_s - lent_per_s)
    return Hiding(exposed_s=tuple(exposed), hidden_s=tuple(hidden), slowdown_s=slowdown_s)


Node = tuple[str, Axis | None, bool, bool, tuple[str, ...], tuple[str, ...]]
Structure = tuple[Node, ...]
"""Of each operator: name, axis of a communication, whether it crosses nodes, is a matrix product, reads, writes.

What may hide under what follows from this alone, so it is worked out once for all sizes of a program.
"""


def _structure(operators: tuple[Operator, ...]) -> Structure:
    return tuple(
        (op.name, op.axis, op.resource is Resource.NETWORK, isinstance(op.work, _PRODUCTS), op.reads, op.writes)
        for op in operators
    )


_PRODUCTS = (GemmWork, GroupedGemmWork)


@lru_cache(maxsize=4096)
def _cover_table(structure: Structure, policy: LayerOverlap) -> tuple[tuple[str, float, tuple[str, ...]], ...]:
    """Of each communication: name, the most of it that may hide, the computations it may hide under, in this order."""
    compute = tuple(node for node in structure if node[1] is None)
    table = []
    for node in structure:
        if node[1] is not None:
            level = policy.level(node[1])
            if node[2] and level is OverlapLevel.FUSED:
                level = OverlapLevel.INTER_OPERATOR
            share = policy.fused_share if level is OverlapLevel.FUSED else 1.0
            table.append((node[0], share, _covers(structure, compute, node, level)))
    return tuple(table)


def _covers(structure: Structure, compute: Structure, this: Node, level: OverlapLevel) -> tuple[str, ...]:
    """The computations that a communication may hide under, neighbours before independent ones."""
    if level is OverlapLevel.NONE:
        return ()
    if level is OverlapLevel.INTER_BATCH:
        return tuple(node[0] for node in compute)
    before, after = _relatives(structure, this[0])
    independent = tuple(node[0] for node in compute if node[0] not in before and node[0] not in after)
    if level is OverlapLevel.INTER_OPERATOR:
        return independent
    *_, reads, writes = this
    return (*_feeding(compute, set(reads)), *_consuming(compute, set(writes)), *independent)


def _feeding(compute: Structure, reached: set[str]) -> list[str]:
    """The nearest matrix products whose output, at most through memory-bound operators, is in `reached`."""
    names = []
    for name, _, _, is_product, reads, writes in reversed(compute):
        if reached.intersection(writes):
            if is_product:
                names.append(name)
            else:
                reached.update(reads)
    return names


def _consuming(compute: Structure, reached: set[str]) -> list[str]:
    """The nearest matrix products that read, at most through memory-bound operators, what is in `reached`."""
    names = []
    for name, _, _, is_product, reads, writes in compute:
        if reached.intersection(reads):
            if is_product:
                names.append(name)
            else:
                reached.update(writes)
    return names


def _relatives(structure: Structure, this: str) -> tuple[frozenset[str], frozenset[str]]:
    """All operators that `this` depends on, and all that depend on it."""
    ancestors: dict[str, frozenset[str]] = {}
    producers: dict[str, list[str]] = {}
    for name, _, _, _, reads, writes in structure:
        direct = [producer for tensor in reads for producer in producers.get(tensor, ())]
        ancestors[name] = frozenset(direct).union(*(ancestors[producer] for producer in direct))
        for tensor in writes:
            producers.setdefault(tensor, []).append(name)
    return ancestors[this], frozenset(name for name, above in ancestors.items() if this in above)
