"""The routed experts of one rank: grouped GEMMs and activation, from ffn_in to fc2_out."""

from __future__ import annotations

from meshwright.costmodel.model import MoeFfnSpec
from meshwright.costmodel.program.builder import ProgramBuilder
from meshwright.costmodel.program.linear import LinearLayer
from meshwright.costmodel.program.operators import CustomKernel, MemoryKernel
from meshwright.costmodel.program.split import share


class GroupedExperts:
    """FC1 (with FC3), activation, FC2 of all experts of a rank at once; etp splits the width of each expert."""

    def __init__(self, builder: ProgramBuilder, moe: MoeFfnSpec, rows: float) -> None:
        strategy, hidden = builder.setting.strategy, builder.setting.hidden
        self.builder = builder
        self.moe = moe
        self.rows = rows
        self.width = share(moe.intermediate, strategy.etp)
        self.num_experts = share(moe.num_experts, strategy.ep)
        self.activations = ("fc1_out", "fc3_out") if moe.gated else ("fc1_out",)
        self.fc1 = self._linear("experts_fc1", hidden, self.width * len(self.activations))
        self.fc2 = self._linear("experts_fc2", self.width, hidden)

    def _linear(self, name: str, width_in: int, width_out: int) -> LinearLayer:
        return LinearLayer(
            name=name, tokens=self.rows, width_in=width_in, width_out=width_out, num_experts=self.num_experts
        )

    @property
    def num_weights(self) -> int:
        """Parameters of the experts on this rank."""
        columns, hidden = self.fc1.width_out, self.builder.setting.hidden
        biases = columns + hidden if self.moe.bias else 0
        return self.num_experts * (hidden * (columns + self.width) + biases)

    def add_forward(self) -> None:
        """Append the forward operators and count the weights."""
        b = self.builder
        b.add_weights(expert=self.num_weights)
        for name in (*self.activations, "fc2_in"):
            b.tensor(name, self.rows * self.width)
        b.linear(self.fc1, "ffn_in", *self.activations)
        custom = CustomKernel.SWIGLU if self.moe.gated else None
        b.elementwise("experts_activation", MemoryKernel.ACTIVATION, self.activations, ("fc2_in",), custom=custom)
        b.linear(self.fc2, "fc2_in", b.tensor("fc2_out", self.rows * b.setting.hidden))

    def add_backward(self) -> None:
        """Append the backward operators, from the gradient of fc2_out to that of ffn_in."""
        b = self.builder
        b.linear_backward(self.fc2, "fc2_in", ("grad:fc2_out",), "grad:fc2_in")
        gradients = tuple(f"grad:{name}" for name in self.activations)
        reads = (*self.activations, "grad:fc2_in")
        name, custom = "experts_activation.backward", CustomKernel.SWIGLU_BACKWARD if self.moe.gated else None
        b.elementwise_backward(name, MemoryKernel.ACTIVATION, reads, gradients, custom=custom)
        b.linear_backward(self.fc1, "ffn_in", gradients, "grad:ffn_in")
