"""The order of a layer's operators as a value: what a plan stores, the simulator replays and the executor launches.

A pass is one list of launches. The host issues them in this order, each to its stream; a stream runs its launches first
come, first served, each as soon as the stream is idle and what it reads is there. Nothing else decides overlap.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.program.operators import Resource
from meshwright.costmodel.value import Value


class PassKind(StrEnum):
    """The passes of a layer that are ordered.

    BACKWARD is recomputation, dgrad and wgrad together; schedules that split the backward run DGRAD (with the
    recomputation) and WGRAD apart. JOINT is the forward of one micro-batch beside the backward of another.
    """

    FORWARD = "forward"
    BACKWARD = "backward"
    DGRAD = "dgrad"
    WGRAD = "wgrad"
    JOINT = "joint"


class Launch(Value, frozen=True, kw_only=True):
    """One kernel launch: an operator, or several that one fused kernel runs tile by tile, in program order.

    `stream`: where it is issued. A fused kernel also occupies the link of its communication. `num_sms`: streaming
    multiprocessors that its communication takes, 0 for computation.
    """

    operators: tuple[str, ...]
    stream: Resource
    num_sms: int = 0

    def __post_init__(self) -> None:
        if not self.operators or self.num_sms < 0:
            raise StrategyError("order", "operators", f"{self.operators} on {self.num_sms} SMs is no launch")


class PassOrder(Value, frozen=True, kw_only=True):
    """The launches of one pass, in the order in which the host issues them.

    `gap`: the most by which another order could be faster, as a share of the pass's time when this one was found: 0
    for a proven best.
    """

    launches: tuple[Launch, ...]
    gap: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.gap <= 1.0:
            raise StrategyError("order", "gap", f"{self.gap} is not a share between 0 and 1")
        names = tuple(self.names())
        if len(set(names)) != len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise StrategyError("order", "launches", f"launch {', '.join(twice)} twice")

    def names(self) -> Iterator[str]:
        """All operators, in the order of their launch."""
        return (name for launch in self.launches for name in launch.operators)

    def on_stream(self, stream: Resource) -> tuple[Launch, ...]:
        """What one stream runs."""
        return tuple(launch for launch in self.launches if launch.stream is stream)


class LayerOrder(Value, frozen=True, kw_only=True):
    """The orders of a layer's passes; None for a pass that the schedule does not run."""

    forward: PassOrder | None = None
    backward: PassOrder | None = None
    dgrad: PassOrder | None = None
    wgrad: PassOrder | None = None
    joint: PassOrder | None = None

    def of(self, kind: PassKind) -> PassOrder | None:
        """The order of a pass."""
        order: PassOrder | None = getattr(self, kind.value)
        return order
