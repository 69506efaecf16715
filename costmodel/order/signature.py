"""What the ordering of operators follows from besides their times: a key for everything that is worked out once."""

from __future__ import annotations

from functools import lru_cache

from meshwright.costmodel.program.operators import Axis, Collective, CollectiveWork, Operator, Pass, Resource
from meshwright.costmodel.value import Value


class Signature(Value, frozen=True, kw_only=True):
    """An operator without its sizes. `work` is the class of its work."""

    axis: Axis | None
    resource: Resource
    work: type
    collective: Collective | None
    phase: Pass
    reads: tuple[str, ...]
    writes: tuple[str, ...]


@lru_cache(maxsize=65536)
def signature(op: Operator) -> Signature:
    """The signature of an operator."""
    return Signature(
        axis=op.axis,
        resource=op.resource,
        work=type(op.work),
        collective=op.work.collective if isinstance(op.work, CollectiveWork) else None,
        phase=op.phase,
        reads=op.reads,
        writes=op.writes,
    )
