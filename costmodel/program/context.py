"""Context parallelism: how a rank's queries meet the keys and values of other ranks' tokens."""

from __future__ import annotations

from meshwright.costmodel.program.attention_shape import AttentionShape
from meshwright.costmodel.program.builder import ProgramBuilder
from meshwright.costmodel.program.operators import Axis, Collective, CollectiveWork, Group
from meshwright.costmodel.strategy import ContextMethod


class ContextExchange:
    """One all-gather of keys and values before attention, or cp - 1 ring hops beside it; nothing for cp = 1.

    Backward brings the keys and values again (a recomputed operator, since copies are never kept); then the gradients
    are reduce-scattered, or travel cp - 1 hops behind the blocks they belong to, as in TransformerEngine's ring.
    A sliding window does not shorten either.
    """

    def __init__(self, builder: ProgramBuilder, shape: AttentionShape) -> None:
        strategy = builder.setting.strategy
        self.builder = builder
        self.shape = shape
        self.cp = strategy.cp
        self.gathers = strategy.context_method is ContextMethod.ALL_GATHER
        self.block_elements = shape.attended_tokens * shape.attended_kv_width

    @property
    def _group(self) -> Group:
        strategy = self.builder.setting.strategy
        return self.builder.setting.group(self.cp, strategy.tp * strategy.sp)

    @property
    def operands(self) -> tuple[str, ...]:
        """What attention reads besides its own operands."""
        if self.cp == 1:
            return ()
        return ("kv_ag",) if self.gathers else ("kv_ring",)

    def add_forward(self, own: tuple[str, ...]) -> None:
        """Append the exchange of `own`, the tensors that hold this rank's keys and values."""
        b = self.builder
        if self.cp == 1:
            return
        if self.gathers:
            b.tensor("kv_ag", self.cp * self.block_elements)
            b.collective("all_gather.kv", Axis.CONTEXT, b.all_gather(self._group, "kv_ag"), own, ("kv_ag",))
        else:
            b.auxiliary("kv_ring", 2 * self.block_elements * b.setting.activation_bytes)
            b.collective("ring.kv", Axis.CONTEXT, self._hops(), own, ("kv_ring",))

    def _hops(self) -> CollectiveWork:
        num_bytes = (self.cp - 1) * self.block_elements * self.builder.setting.activation_bytes
        return CollectiveWork(collective=Collective.SEND_RECV, num_bytes=num_bytes, group=self._group)

    def add_backward(self, own: tuple[str, ...]) -> None:
        """Append the way home of the gradients, added to those of `own`."""
        b = self.builder
        if self.cp == 1:
            return
        writes = tuple(f"grad:{name}" for name in own)
        if self.gathers:
            work = b.reduce_scatter(self._group, "kv_ag")
            b.collective_backward("reduce_scatter.grad_kv", Axis.CONTEXT, work, ("grad:kv_ag",), writes)
        else:
            b.collective_backward("ring.grad_kv", Axis.CONTEXT, self._hops(), ("grad:kv_ring",), writes)
