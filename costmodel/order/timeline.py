"""What runs when in a pass of a layer: spans for pictures, traces and the comparison with a measured run."""

from __future__ import annotations

from meshwright.costmodel.program.operators import Pass, Resource
from meshwright.costmodel.value import Value


class OperatorSpan(Value, frozen=True, kw_only=True):
    """One operator on its stream. Members of a fused kernel share its times and name each other in `fused_with`."""

    name: str
    stream: Resource
    start_s: float
    end_s: float
    module: str
    phase: Pass
    recomputes: bool
    is_communication: bool
    fused_with: tuple[str, ...]
    num_sms: int


class PassTimeline(Value, frozen=True, kw_only=True):
    """The spans of a pass in the order of their launch, and its length."""

    spans: tuple[OperatorSpan, ...]
    end_s: float

    def on_stream(self, stream: Resource) -> tuple[OperatorSpan, ...]:
        """The spans of one stream."""
        return tuple(span for span in self.spans if span.stream is stream)


class LayerTimelines(Value, frozen=True, kw_only=True):
    """The passes of a layer; None for a pass that its schedule does not run."""

    forward: PassTimeline | None = None
    backward: PassTimeline | None = None
    dgrad: PassTimeline | None = None
    wgrad: PassTimeline | None = None
    joint: PassTimeline | None = None
