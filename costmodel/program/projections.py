"""Query, key and value projections of multi-head and grouped-query attention, with their norms and RoPE."""

from __future__ import annotations

from meshwright.costmodel.model import AttentionSpec
from meshwright.costmodel.program.attention_shape import AttentionShape
from meshwright.costmodel.program.builder import ProgramBuilder
from meshwright.costmodel.program.linear import LinearLayer
from meshwright.costmodel.program.operators import MemoryKernel
from meshwright.costmodel.program.region import TensorRegion

SHARED_KEY_VALUE = "previous_kv"
"""Keys and values taken from the layer before, which holds them: no bytes in this layer."""


class Projections:
    """From ln1_out to q_rope, k_rope and v: one column-split matrix, norms of each head, RoPE."""

    def __init__(
        self, builder: ProgramBuilder, attention: AttentionSpec, shape: AttentionShape, region: TensorRegion
    ) -> None:
        self.builder = builder
        self.attention = attention
        self.shape = shape
        self.region = region
        self.linear = LinearLayer(
            name="qkv",
            tokens=shape.gathered_tokens,
            width_in=builder.setting.hidden,
            width_out=shape.qkv_width,
        )

    @property
    def _rotated(self) -> tuple[str, ...]:
        """Tensors that norms and RoPE work on."""
        return ("q", "k") if self.shape.projects_key_value else ("q",)

    @property
    def _targets(self) -> tuple[str, ...]:
        return ("q", "k", "v") if self.shape.projects_key_value else ("q",)

    def add_forward(self) -> None:
        """Append gather, projection, norms and RoPE, and count the weights."""
        b = self.builder
        source = self.region.enter("ln1_out", num_products=len(self._targets))
        self._register()
        b.linear(self.linear, source, *self._targets)
        self._add_weights()
        normed = self._norm()
        b.elementwise("rope", MemoryKernel.ROPE, normed, tuple(f"{name}_rope" for name in self._rotated))

    def _register(self) -> None:
        b, shape, tokens = self.builder, self.shape, self.shape.gathered_tokens
        b.tensor("q", tokens * shape.query_width)
        b.tensor("q_rope", tokens * shape.query_width)
        if not shape.projects_key_value:
            b.auxiliary(SHARED_KEY_VALUE, 0.0)
            return
        b.tensor("k", tokens * shape.key_width)
        b.tensor("k_rope", tokens * shape.key_width)
        b.tensor("v", tokens * shape.value_width)

    def _add_weights(self) -> None:
        attention, shape = self.attention, self.shape
        biases = shape.qkv_width if attention.qkv_bias else 0
        weighted = attention.qk_norm and attention.qk_norm_weights
        norms = attention.head_dim * len(self._rotated) if weighted else 0
        self.builder.add_weights(dense=self.linear.width_in * shape.qkv_width + biases + norms)

    def _norm(self) -> tuple[str, ...]:
        if not self.attention.qk_norm:
            return self._rotated
        b = self.builder
        normed = tuple(b.auxiliary(f"{name}_norm", b.bytes_of(name)) for name in self._rotated)
        b.elementwise("qk_norm", MemoryKernel.NORM, self._rotated, normed, num_kernels=len(normed))
        return normed

    def add_backward(self) -> None:
        """Append the backward operators, from the gradients of q_rope, k_rope and v to that of ln1_out."""
        b, region = self.builder, self.region
        self._rotate_backward()
        source = region.entered("ln1_out")
        target = region.inner_gradient("ln1_out", source)
        b.linear_backward(self.linear, source, tuple(f"grad:{name}" for name in self._targets), target)
        region.leave_backward(target, "ln1_out", "grad_ln1_out", num_products=len(self._targets))

    def _rotate_backward(self) -> None:
        b, inputs = self.builder, self._rotated
        before = tuple(f"grad:{name}_norm" if self.attention.qk_norm else f"grad:{name}" for name in inputs)
        b.elementwise_backward(
            "rope.backward", MemoryKernel.ROPE, tuple(f"grad:{name}_rope" for name in inputs), before
        )
        if self.attention.qk_norm:
            writes = tuple(f"grad:{name}" for name in inputs)
            b.elementwise_backward("qk_norm.backward", MemoryKernel.NORM, (*inputs, *before), writes, len(inputs))
