"""The router of an MoE block: logits, choice of experts, and their backward."""

from __future__ import annotations

import msgspec

from meshwright.costmodel.model import MoeFfnSpec
from meshwright.costmodel.program.builder import ProgramBuilder
from meshwright.costmodel.program.linear import LinearLayer
from meshwright.costmodel.program.operators import CustomKernel, MemoryKernel, Pass, Precision

ROUTER_KERNELS = 4
"""Kernels of scoring, choosing, sorting and counting: too small to be bound by anything but their launch."""


class Router:
    """From ln2_out to `routing` (gate weights and expert numbers). BF16 with FP32 logits, in FP8 training too."""

    def __init__(self, builder: ProgramBuilder, moe: MoeFfnSpec) -> None:
        self.builder = builder
        self.moe = moe
        self.linear = LinearLayer(
            name="router",
            tokens=builder.setting.tokens,
            width_in=builder.setting.hidden,
            width_out=moe.num_experts,
        )

    def add_forward(self) -> None:
        """Append the forward operators and count the weights."""
        b, moe, tokens = self.builder, self.moe, self.linear.tokens
        b.module = "router"
        b.auxiliary("router_logits", 4.0 * tokens * moe.num_experts)
        b.auxiliary("routing", 8.0 * tokens * moe.top_k + 4.0 * moe.num_experts)
        b.forward("router", self.linear.forward_work(Precision.BF16), ("ln2_out",), ("router_logits",))
        b.elementwise(
            "topk", MemoryKernel.ROUTER, ("router_logits",), ("routing",), ROUTER_KERNELS, custom=CustomKernel.ROUTE
        )
        biases = int(moe.router_bias) + int(moe.score_correction_bias)
        b.add_weights(dense=moe.num_experts * (self.linear.width_in + biases))

    def add_backward(self) -> None:
        """Append the backward operators, from the gradient of the gate weights to that of ln2_out_router."""
        b, fp32 = self.builder, self.builder.setting.fp32_gradients
        b.module = "router"
        b.auxiliary("ln2_out_router", b.bytes_of("ln2_out"))
        reads, gradient = ("router_logits", "routing", "grad:routing"), "grad:router_logits"
        work = b.memory_work(MemoryKernel.ROUTER, reads, (gradient,), ROUTER_KERNELS, backward=True)
        without_logits = b.memory_work(MemoryKernel.ROUTER, reads[1:], (gradient,), custom=CustomKernel.ROUTE_BACKWARD)
        work = msgspec.structs.replace(work, custom=without_logits.custom)
        b.backward("topk.backward", work, reads, (gradient,))
        b.backward("router.dgrad", self.linear.dgrad_work(Precision.BF16), (gradient,), ("grad:ln2_out_router",))
        wgrad = self.linear.wgrad_work(Precision.BF16, fp32_gradients=fp32)
        b.backward("router.wgrad", wgrad, ("ln2_out", gradient), (), phase=Pass.WGRAD)
