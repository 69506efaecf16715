"""How far a runtime lets communication of each mesh axis run beside computation. What then runs when, the order says.

* NONE: the communication blocks; nothing of the layer runs beside it.
* INTER_OPERATOR: it has a stream of its own and runs beside whatever neither needs it nor is needed by it.
* FUSED: also inside one kernel with the matrix product that feeds it or consumes it (`costmodel.order.fusion`).
* INTER_BATCH: beside the passes of another micro-batch, too, which the schedule runs at the same time (Megatron-Core's
  overlap of expert-parallel communication with 1F1B).
"""

from __future__ import annotations

from enum import StrEnum

from meshwright.costmodel.errors import InputError
from meshwright.costmodel.program.operators import Axis
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

    @property
    def reaches_other_micro_batches(self) -> bool:
        """Whether some communication runs beside the passes of another micro-batch."""
        axes = (self.tensor, self.sequence, self.context, self.expert)
        return OverlapLevel.INTER_BATCH in axes
