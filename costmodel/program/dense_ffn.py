"""A dense feed-forward block (also the shared experts of an MoE layer), split over `ffn_tp` ranks."""

from __future__ import annotations

from meshwright.costmodel.program.builder import ProgramBuilder
from meshwright.costmodel.program.linear import LinearLayer
from meshwright.costmodel.program.operators import GRADIENT, CustomKernel, MemoryKernel
from meshwright.costmodel.program.region import TensorRegion
from meshwright.costmodel.program.split import share
from meshwright.costmodel.value import Value


class DenseShape(Value, frozen=True, kw_only=True):
    """A block of `intermediate` width over `split` ranks; `gated` has a third matrix (FC3)."""

    intermediate: int
    gated: bool
    bias: bool
    split: int

    @property
    def width(self) -> int:
        """Columns of FC1 (and FC3) on one rank."""
        return share(self.intermediate, self.split)

    def num_weights(self, hidden: int) -> int:
        """Parameters on one rank."""
        columns = self.width * (2 if self.gated else 1)
        return hidden * (columns + self.width) + (columns + hidden if self.bias else 0)


class DenseFfnBlock:
    """FC1 (with its gate FC3), activation, FC2; gathered and reduce-scattered over the ranks that share it.

    `prefix` names the operators and tensors, so that the shared experts can stand beside the routed ones; `output` is
    the name of the block's result. `entered`: the gathered input, if someone else gathers it over the same ranks.
    """

    def __init__(
        self, builder: ProgramBuilder, shape: DenseShape, *, prefix: str, output: str, entered: str = ""
    ) -> None:
        hidden = builder.setting.hidden
        self.builder = builder
        self.shape = shape
        self.prefix = prefix
        self.output = output
        self.entered = entered
        self.region = TensorRegion(builder, shape.split)
        self.tokens = builder.setting.tokens * (shape.split if self.region.gathers else 1)
        columns = shape.width * (2 if shape.gated else 1)
        self.fc1 = LinearLayer(name=f"{prefix}fc1", tokens=self.tokens, width_in=hidden, width_out=columns)
        self.fc2 = LinearLayer(name=f"{prefix}fc2", tokens=self.tokens, width_in=shape.width, width_out=hidden)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The tensors that the residual adds up."""
        return (self.output,)

    @property
    def _source(self) -> str:
        if not self.region.gathers:
            return "ln2_out"
        return self.entered or f"{self.prefix}ln2_out_ag"

    @property
    def _hidden_activations(self) -> tuple[str, ...]:
        names = ("fc1_out", "fc3_out") if self.shape.gated else ("fc1_out",)
        return tuple(self.prefix + name for name in names)

    @property
    def _partial_output(self) -> str:
        return f"{self.prefix}fc2_out" if self.shape.split > 1 else self.output

    def add_forward(self) -> None:
        """Append the forward operators and count the weights of this rank."""
        b, p, hidden = self.builder, self.prefix, self.builder.setting.hidden
        b.add_weights(ffn=self.shape.num_weights(hidden))
        if not self.entered:
            self.region.enter("ln2_out", prefix=p, num_products=len(self._hidden_activations))
        for name in (*self._hidden_activations, f"{p}fc2_in"):
            b.tensor(name, self.tokens * self.shape.width)
        b.linear(self.fc1, self._source, *self._hidden_activations)
        custom = CustomKernel.SWIGLU if self.shape.gated else None
        activations = self._hidden_activations
        b.elementwise(f"{p}activation", MemoryKernel.ACTIVATION, activations, (f"{p}fc2_in",), custom=custom)
        b.linear(self.fc2, f"{p}fc2_in", b.tensor(self._partial_output, self.tokens * hidden))
        self.region.leave(self._partial_output, self.output, b.setting.tokens * hidden)

    def add_backward(self, gradient: str, source: str) -> None:
        """Append the backward operators: from the gradient of the output to that of the input, named `source`."""
        b, p = self.builder, self.prefix
        gradient = self.region.enter_backward(gradient, self._partial_output, self.output)
        b.linear_backward(self.fc2, f"{p}fc2_in", (gradient,), f"{GRADIENT}{p}fc2_in")
        gradients = tuple(GRADIENT + name for name in self._hidden_activations)
        reads = (*self._hidden_activations, f"{GRADIENT}{p}fc2_in")
        custom = CustomKernel.SWIGLU_BACKWARD if self.shape.gated else None
        b.elementwise_backward(f"{p}activation.backward", MemoryKernel.ACTIVATION, reads, gradients, custom=custom)
        target = self.region.inner_gradient(source, self._gradient_inside)
        b.linear_backward(self.fc1, self._source, gradients, target)
        num_products = 1 if self.entered else len(self._hidden_activations)
        self.region.leave_backward(target, source, f"{p}grad_ln2_out", num_products=num_products)

    @property
    def _gradient_inside(self) -> str:
        """A name of its own where the gathered input is someone else's, who sums his own gradient."""
        if not self.entered:
            return self._source
        return self.builder.auxiliary(f"{self.prefix}{self.entered}", self.builder.bytes_of(self.entered))
