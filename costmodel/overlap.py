"""What communication may hide under, inside one pass of one layer: a stated rule until the order is searched for.

The rule, by the level that a runtime grants each mesh axis:

* NONE: communication is exposed.
* INTER_OPERATOR: it hides under computation of the same pass that neither needs it nor is needed by it, which is what
  ordering operators on several streams can reach at best.
* FUSED: also under the matrix products that feed it or consume it directly, as tile-by-tile fused kernels do; there at
  most `fused_share` of it hides, since the first and last tiles have nothing to hide under.

Every second of computation is lent only once. Hidden communication slows the computation beside it by the profile's
measured interference. The scheduler that finds an order replaces `hide_communication` and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache

from meshwright.costmodel.hardware import Interference
from meshwright.costmodel.program.operators import Axis, GemmWork, GroupedGemmWork, Operator
from meshwright.costmodel.value import Value


class OverlapLevel(StrEnum):
    """How far communication of one axis may hide."""

    NONE = "none"
    INTER_OPERATOR = "inter-operator"
    FUSED = "fused"


class LayerOverlap(Value, frozen=True, kw_only=True):
    """The level granted to each mesh axis. `fused_share`: the most that a fused kernel hides of its communication."""

    tensor: OverlapLevel = OverlapLevel.NONE
    sequence: OverlapLevel = OverlapLevel.NONE
    context: OverlapLevel = OverlapLevel.NONE
    expert: OverlapLevel = OverlapLevel.NONE
    data: OverlapLevel = OverlapLevel.INTER_OPERATOR
    fused_share: float = 0.8

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
    lendable = {op.name: time_s[op.name] for op in operators if not op.is_communication}
    window_per_s = interference.communication_slowdown
    lent_per_s = window_per_s / interference.compute_slowdown
    exposed: list[tuple[str, float]] = []
    hidden: list[tuple[str, float]] = []
    for name, axis in communications(operators):
        most = time_s[name] * (policy.fused_share if policy.level(axis) is OverlapLevel.FUSED else 1.0)
        covered = 0.0
        for cover in covers(operators, name, policy.level(axis)):
            taken = min(lendable[cover], (most - covered) * lent_per_s)
            lendable[cover] -= taken
            covered += taken / lent_per_s
        exposed.append((name, time_s[name] - covered))
        hidden.append((name, covered))
    slowdown_s = sum(seconds for _, seconds in hidden) * (window_per_s - lent_per_s)
    return Hiding(exposed_s=tuple(exposed), hidden_s=tuple(hidden), slowdown_s=slowdown_s)


@lru_cache(maxsize=65536)
def communications(operators: tuple[Operator, ...]) -> tuple[tuple[str, Axis], ...]:
    """Names and axes of the communication operators, in program order."""
    return tuple((op.name, op.axis) for op in operators if op.is_communication and op.axis is not None)


@lru_cache(maxsize=262144)
def covers(operators: tuple[Operator, ...], name: str, level: OverlapLevel) -> tuple[str, ...]:
    """The computations that the named communication may hide under, independent ones first."""
    if level is OverlapLevel.NONE:
        return ()
    compute = [op for op in operators if not op.is_communication]
    before, after = _relatives(operators)[name]
    independent = tuple(op.name for op in compute if op.name not in before and op.name not in after)
    if level is OverlapLevel.INTER_OPERATOR:
        return independent
    this = next(op for op in operators if op.name == name)
    return (*_neighbours(compute, this), *independent)


def _neighbours(compute: list[Operator], this: Operator) -> tuple[str, ...]:
    """The nearest matrix products before and after: between them only memory-bound operators touch the data."""
    reached, names = set(this.reads), []
    for op in reversed(compute):
        if reached.intersection(op.writes):
            if isinstance(op.work, GemmWork | GroupedGemmWork):
                names.append(op.name)
            else:
                reached.update(op.reads)
    reached = set(this.writes)
    for op in compute:
        if reached.intersection(op.reads):
            if isinstance(op.work, GemmWork | GroupedGemmWork):
                names.append(op.name)
            else:
                reached.update(op.writes)
    return tuple(dict.fromkeys(names))


@lru_cache(maxsize=16384)
def _relatives(operators: tuple[Operator, ...]) -> dict[str, tuple[frozenset[str], frozenset[str]]]:
    """For each communication: all operators it depends on, and all that depend on it."""
    ancestors: dict[str, frozenset[str]] = {}
    producers: dict[str, list[str]] = {}
    for op in operators:
        direct = [producer for tensor in op.reads for producer in producers.get(tensor, ())]
        ancestors[op.name] = frozenset(direct).union(*(ancestors[producer] for producer in direct))
        for tensor in op.writes:
            producers.setdefault(tensor, []).append(op.name)
    names = [op.name for op in operators if op.is_communication]
    return {
        name: (ancestors[name], frozenset(other for other, above in ancestors.items() if name in above))
        for name in names
    }
