"""A mixture-of-experts block: router, dispatch, grouped GEMMs, combine, shared experts beside them."""

from __future__ import annotations

from meshwright.costmodel.model import MoeFfnSpec
from meshwright.costmodel.program.builder import ProgramBuilder
from meshwright.costmodel.program.exchange import (
    GatherExchange,
    LocalExchange,
    TokenExchange,
    expert_rows,
    gathers_tokens,
)
from meshwright.costmodel.program.grouped_experts import GroupedExperts
from meshwright.costmodel.program.operators import GRADIENT, MemoryKernel
from meshwright.costmodel.program.router import Router
from meshwright.costmodel.program.row_exchange import RowExchange
from meshwright.costmodel.program.setting import ProgramSetting
from meshwright.costmodel.program.shared_experts import SharedExperts


class MoeFfnBlock:
    """Routed experts over ep x etp ranks, shared experts over ffn_tp; from ln2_out to ffn_out (and shared_out)."""

    def __init__(self, builder: ProgramBuilder, moe: MoeFfnSpec) -> None:
        self.builder = builder
        self.router = Router(builder, moe)
        self.exchange = _exchange(builder, moe)
        self.experts = GroupedExperts(builder, moe, expert_rows(builder.setting, moe))
        entered = "ln2_out_ag" if _gathers_alike(builder.setting) else ""
        self.shared = SharedExperts(builder, moe, entered) if moe.shared_intermediate else None

    @property
    def outputs(self) -> tuple[str, ...]:
        """The tensors that the residual adds up."""
        return ("ffn_out", "shared_out") if self.shared else ("ffn_out",)

    def add_forward(self) -> None:
        """Append the forward operators and count the weights; shared experts stand where dispatch can hide."""
        b = self.builder
        self.router.add_forward()
        b.module = "experts"
        self.exchange.dispatch()
        if self.shared:
            self.shared.add_forward()
        b.module = "experts"
        self.experts.add_forward()
        self.exchange.combine()

    def add_backward(self, gradient: str, source: str) -> None:
        """Append the backward operators: from the gradient of the outputs to that of the input, named `source`."""
        b = self.builder
        b.module = "experts"
        self.exchange.combine_backward(gradient)
        self.experts.add_backward()
        self.exchange.dispatch_backward()
        if self.shared:
            self.shared.add_backward(gradient)
        self.router.add_backward()
        parts = ("grad:ln2_out_routed", "grad:ln2_out_router", *(self.shared.gradients if self.shared else ()))
        b.elementwise_backward("sum.grad_ln2_out", MemoryKernel.RESIDUAL, parts, (GRADIENT + source,))


def _exchange(builder: ProgramBuilder, moe: MoeFfnSpec) -> TokenExchange:
    strategy = builder.setting.strategy
    if strategy.ep * strategy.etp == 1:
        return LocalExchange(builder, moe)
    return GatherExchange(builder, moe) if gathers_tokens(builder.setting) else RowExchange(builder, moe)


def _gathers_alike(setting: ProgramSetting) -> bool:
    """Whether shared experts need the very tokens that the routed ones gather."""
    strategy = setting.strategy
    return gathers_tokens(setting) and strategy.ffn_tp == strategy.ep * strategy.etp
