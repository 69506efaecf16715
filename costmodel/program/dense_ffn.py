"""A dense feed-forward block (also the shared experts of an MoE layer), split over `ffn_tp` ranks."""

from __future__ import annotations

from meshwright.costmodel.program.builder import ProgramBuilder
from meshwright.costmodel.program.operators import Axis, CollectiveWork, Group, MemoryKernel


class DenseFfnBlock:
    """FC1 (with its gate FC3), activation, FC2; gathered and reduce-scattered over `split` ranks.

    `prefix` names the operators and tensors, so that the shared experts can stand beside the routed ones. Source and
    output are the names of the normed input and of the block's result.
    """

    def __init__(
        self, builder: ProgramBuilder, *, intermediate: int, gated: bool, split: int, prefix: str, output: str
    ) -> None:
        self.builder = builder
        self.split = split
        self.gated = gated
        self.width = intermediate // split
        self.prefix = prefix
        self.output = output
        self.hidden = builder.setting.hidden
        self.tokens = builder.setting.tokens * (split if self._gathers else 1)

    @property
    def _group(self) -> Group:
        return self.builder.setting.group(self.split)

    @property
    def _gathers(self) -> bool:
        strategy = self.builder.setting.strategy
        return self.split > 1 and (strategy.sequence_parallel or strategy.tp == 1)

    @property
    def _source(self) -> str:
        return "ln2_out_ag" if self._gathers else "ln2_out"

    @property
    def _hidden_activations(self) -> tuple[str, ...]:
        names = ("fc1_out", "fc3_out") if self.gated else ("fc1_out",)
        return tuple(self.prefix + name for name in names)

    def add_forward(self, *, bias: bool = False) -> None:
        """Append the forward operators and count the weights (1/split of them on each rank)."""
        b, p = self.builder, self.prefix
        matrices = 3 if self.gated else 2
        biases = (self.width * (matrices - 1) + self.hidden) if bias else 0
        b.add_weights(dense=matrices * self.hidden * self.width + biases)
        self._gather()
        for name in self._hidden_activations:
            b.tensor(name, self.tokens * self.width)
        width_out = self.width * len(self._hidden_activations)
        b.linear(f"{p}fc1", self.tokens, self.hidden, width_out, self._source, *self._hidden_activations)
        b.tensor(f"{p}fc2_in", self.tokens * self.width)
        b.elementwise(f"{p}activation", MemoryKernel.ACTIVATION, self._hidden_activations, (f"{p}fc2_in",))
        target = b.tensor(self._partial_output, self.tokens * self.hidden)
        b.linear(f"{p}fc2", self.tokens, self.width, self.hidden, f"{p}fc2_in", target)
        self._reduce()

    @property
    def _partial_output(self) -> str:
        return f"{self.prefix}fc2_out" if self.split > 1 else self.output

    def _gather(self) -> None:
        b = self.builder
        if self._gathers and not b.has_tensor("ln2_out_ag"):
            b.tensor("ln2_out_ag", self.tokens * self.hidden)
            work = b.all_gather(self._group, "ln2_out_ag")
            b.collective("all_gather.ln2_out", Axis.TENSOR, work, ("ln2_out",), ("ln2_out_ag",))

    def _reduce(self) -> None:
        if self.split == 1:
            return
        b = self.builder
        b.tensor(self.output, b.setting.tokens * self.hidden)
        work = self._sum(self._partial_output)
        reads = (self._partial_output,)
        b.collective(f"{work.collective}.{self.output}", Axis.TENSOR, work, reads, (self.output,))

    def _sum(self, partial: str) -> CollectiveWork:
        b = self.builder
        return b.reduce_scatter(self._group, partial) if self._gathers else b.all_reduce(self._group, partial)

    def add_backward(self, gradient: str, target: str) -> None:
        """Append the backward operators: from the gradient of the output to `target`, the gradient of the input."""
        b, p = self.builder, self.prefix
        gradient = self._gather_gradient(gradient)
        b.linear_backward(f"{p}fc2", self.tokens, self.width, self.hidden, f"{p}fc2_in", (gradient,), f"grad:{p}fc2_in")
        gradients = tuple(f"grad:{name}" for name in self._hidden_activations)
        reads = (*self._hidden_activations, f"grad:{p}fc2_in")
        b.elementwise_backward(f"{p}activation.backward", MemoryKernel.ACTIVATION, reads, gradients)
        partial = f"grad:{self._source}" if self._gathers else target
        if self.split > 1 and not self._gathers:
            b.auxiliary(f"{p}ln2_out_partial", b.bytes_of("ln2_out"))
            partial = f"grad:{p}ln2_out_partial"
        width_out = self.width * len(self._hidden_activations)
        b.linear_backward(f"{p}fc1", self.tokens, self.hidden, width_out, self._source, gradients, partial)
        self._reduce_gradient(partial, target)

    def _gather_gradient(self, gradient: str) -> str:
        if not self._gathers:
            return gradient
        gathered = f"grad:{self._partial_output}"
        name = f"all_gather.grad_{self.output}"
        work = self.builder.all_gather(self._group, self._partial_output)
        self.builder.collective_backward(name, Axis.TENSOR, work, (gradient,), (gathered,))
        return gathered

    def _reduce_gradient(self, partial: str, target: str) -> None:
        if self.split == 1:
            return
        work = self._sum(partial)
        name = f"{work.collective}.{self.prefix}grad_ln2_out"
        self.builder.collective_backward(name, Axis.TENSOR, work, (partial,), (target,))
