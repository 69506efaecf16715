"""Shared experts: a dense block beside the routed ones, in some models behind a sigmoid gate."""

from __future__ import annotations

from meshwright.costmodel.model import MoeFfnSpec
from meshwright.costmodel.program.builder import ProgramBuilder
from meshwright.costmodel.program.dense_ffn import DenseFfnBlock, DenseShape
from meshwright.costmodel.program.linear import LinearLayer
from meshwright.costmodel.program.operators import MemoryKernel, Pass, Precision


class SharedExperts:
    """From ln2_out to shared_out. The gate (Qwen2-MoE) is one number a token, BF16, not split.

    `entered`: the gathered input, if the routed experts gather it over the same ranks.
    """

    def __init__(self, builder: ProgramBuilder, moe: MoeFfnSpec, entered: str) -> None:
        setting = builder.setting
        shape = DenseShape(
            intermediate=moe.shared_intermediate, gated=moe.gated, bias=moe.bias, split=setting.strategy.ffn_tp
        )
        self.builder = builder
        self.has_gate = moe.shared_gate
        ungated = "shared_ungated" if self.has_gate else "shared_out"
        self.block = DenseFfnBlock(builder, shape, prefix="shared_", output=ungated, entered=entered)
        self.gate = LinearLayer(name="shared_gate", tokens=setting.tokens, width_in=setting.hidden, width_out=1)

    @property
    def gradients(self) -> tuple[str, ...]:
        """The parts of the gradient of ln2_out that come from here."""
        return ("grad:ln2_out_shared", "grad:ln2_out_gate") if self.has_gate else ("grad:ln2_out_shared",)

    def add_forward(self) -> None:
        """Append the forward operators and count the weights."""
        b = self.builder
        b.module = "shared"
        self.block.add_forward()
        if not self.has_gate:
            return
        b.add_weights(dense=self.gate.width_in)
        b.auxiliary("shared_gate_logits", self.gate.tokens * b.setting.activation_bytes)
        b.forward("shared_gate", self.gate.forward_work(Precision.BF16), ("ln2_out",), ("shared_gate_logits",))
        b.tensor("shared_out", b.elements_of("shared_ungated"))
        reads = ("shared_ungated", "shared_gate_logits")
        b.elementwise("shared_gate.scale", MemoryKernel.ACTIVATION, reads, ("shared_out",))

    def add_backward(self, gradient: str) -> None:
        """Append the backward operators, from the gradient of shared_out to `gradients`."""
        b = self.builder
        b.module = "shared"
        b.auxiliary("ln2_out_shared", b.bytes_of("ln2_out"))
        if self.has_gate:
            gradient = self._gate_backward(gradient)
        self.block.add_backward(gradient, "ln2_out_shared")

    def _gate_backward(self, gradient: str) -> str:
        b, logits = self.builder, "grad:shared_gate_logits"
        b.auxiliary("ln2_out_gate", b.bytes_of("ln2_out"))
        reads = (gradient, "shared_ungated", "shared_gate_logits")
        writes = ("grad:shared_ungated", logits)
        b.elementwise_backward("shared_gate.scale.backward", MemoryKernel.ACTIVATION, reads, writes)
        b.backward("shared_gate.dgrad", self.gate.dgrad_work(Precision.BF16), (logits,), ("grad:ln2_out_gate",))
        wgrad = self.gate.wgrad_work(Precision.BF16, fp32_gradients=b.setting.fp32_gradients)
        b.backward("shared_gate.wgrad", wgrad, ("ln2_out", logits), (), phase=Pass.WGRAD)
        return "grad:shared_ungated"
