"""A multi-token-prediction module: one more layer and head pass behind the main head (DeepSeek-V3, section 2.2)."""

from __future__ import annotations

from meshwright.costmodel.formulas.parameters import norm_parameters
from meshwright.costmodel.model import ModelSpec
from meshwright.costmodel.program.builder import ProgramBuilder
from meshwright.costmodel.program.embedding import EmbeddingBlock
from meshwright.costmodel.program.head import HeadBlock
from meshwright.costmodel.program.linear import LinearLayer
from meshwright.costmodel.program.operators import MemoryKernel
from meshwright.costmodel.program.program import LayerProgram, with_prefix


class MtpModule:
    """Norms of the previous depth's hidden vector and of the next token's embedding, projection, layer, head.

    `layer` is the program of the model's last layer. The projection (2h to h, BF16) is not split over tp: every rank
    projects its own tokens. Embedding and head are the main model's.
    """

    def __init__(
        self, builder: ProgramBuilder, model: ModelSpec, layer: LayerProgram, *, depth: int, source: str, fused: bool
    ) -> None:
        self.builder = builder
        self.source = source
        self.prefix = f"mtp{depth}."
        self.hidden = builder.setting.hidden
        self.norm_parameters = norm_parameters(self.hidden, 2, model.layers[-1].norm_bias)
        self.projection = LinearLayer(
            name=f"{self.prefix}projection",
            tokens=builder.setting.tokens,
            width_in=2 * self.hidden,
            width_out=self.hidden,
        )
        self.layer = with_prefix(layer, self.prefix)
        self.embedding = EmbeddingBlock(builder, model, prefix=self.prefix, output=f"{self.prefix}embedding")
        self.head = HeadBlock(builder, model, fused=fused, prefix=self.prefix, source=self.output)

    @property
    def output(self) -> str:
        """The residual stream behind the module's layer, which the next module starts from."""
        return self.layer.output

    def add_forward(self) -> None:
        """Append the forward operators and count the weights of the module's own."""
        b, p, tokens = self.builder, self.prefix, self.builder.setting.tokens
        self.embedding.add_forward()
        b.module = "mtp"
        b.tensor(f"{p}projection_in", 2 * tokens * self.hidden)
        reads = (f"{p}embedding", self.source)
        b.elementwise(f"{p}norms", MemoryKernel.NORM, reads, (f"{p}projection_in",), num_kernels=2)
        b.linear(self.projection, f"{p}projection_in", f"{p}hidden")
        b.add_weights(dense=2 * self.hidden**2 + self.norm_parameters)
        b.include_forward(self.layer)
        self.head.add_forward()

    def add_backward(self, *, is_last: bool) -> None:
        """Append the backward operators; deeper modules must have added theirs to the gradient of the output."""
        b, p = self.builder, self.prefix
        self.head.add_backward(accumulates=not is_last)
        b.include_backward(self.layer)
        b.module = "mtp"
        gradients, target = (f"grad:{p}hidden",), f"grad:{p}projection_in"
        b.linear_backward(self.projection, f"{p}projection_in", gradients, target)
        writes = (f"grad:{p}embedding", f"grad:{self.source}")
        reads = (f"{p}embedding", self.source, target)
        b.elementwise_backward(f"{p}norms.backward", MemoryKernel.NORM, reads, writes, num_kernels=2)
        self.embedding.add_backward()
