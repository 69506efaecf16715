"""Projections of multi-head latent attention: down to a latent, norm, up to heads (DeepSeek-V2, arXiv 2405.04434)."""

from __future__ import annotations

from meshwright.costmodel.model import AttentionSpec
from meshwright.costmodel.program.attention_shape import AttentionShape
from meshwright.costmodel.program.builder import ProgramBuilder
from meshwright.costmodel.program.linear import LinearLayer
from meshwright.costmodel.program.operators import MemoryKernel, MemoryWork
from meshwright.costmodel.program.region import TensorRegion


class Latent:
    """One latent path: down projection, norm, up projection to this rank's heads.

    The down projection is not split over tp: every rank holds it and projects its own tokens. The normed latent, far
    narrower than the hidden vector, is what is gathered. `normed_width` leaves out the key's rotary part, which the
    key/value latent carries along; `down_bias` counts a bias on the down projection.
    """

    def __init__(
        self,
        builder: ProgramBuilder,
        region: TensorRegion,
        shape: AttentionShape,
        *,
        kind: str,
        width: int,
        normed_width: int,
        up_width: int,
        down_bias: bool,
    ) -> None:
        hidden = builder.setting.hidden
        self.builder = builder
        self.region = region
        self.name = f"{kind}_latent"
        self.down = LinearLayer(name=f"{kind}_down", tokens=shape.tokens, width_in=hidden, width_out=width)
        self.up = LinearLayer(
            name=f"{kind}_up", tokens=shape.gathered_tokens, width_in=normed_width, width_out=up_width
        )
        biases = width if down_bias else 0
        self.num_weights = hidden * width + biases + normed_width + normed_width * up_width

    @property
    def _normed(self) -> str:
        return f"{self.name}_norm"

    def add_forward(self, *targets: str) -> None:
        """Append the operators up to `targets`, the heads."""
        b = self.builder
        b.tensor(self.name, self.down.tokens * self.down.width_out)
        b.tensor(self._normed, self.down.tokens * self.down.width_out)
        b.linear(self.down, "ln1_out", self.name)
        b.elementwise(f"norm_{self.name}", MemoryKernel.NORM, (self.name,), (self._normed,))
        b.linear(self.up, self.region.enter(self._normed), *targets)
        b.add_weights(dense=self.num_weights)

    def add_backward(self, *gradients: str) -> None:
        """Append the backward operators, adding to the gradient of ln1_out."""
        b, normed = self.builder, self._normed
        source = self.region.entered(normed)
        target = self.region.inner_gradient(normed, source)
        b.linear_backward(self.up, source, gradients, target)
        self.region.leave_backward(target, normed, f"grad_{normed}")
        reads = (self.name, f"grad:{normed}")
        b.elementwise_backward(f"norm_{self.name}.backward", MemoryKernel.NORM, reads, (f"grad:{self.name}",))
        b.linear_backward(self.down, "ln1_out", (f"grad:{self.name}",), "grad:ln1_out")


class LatentProjections:
    """From ln1_out to q_rope, k_rope and v by latents; without a query latent the query is projected directly."""

    def __init__(
        self, builder: ProgramBuilder, attention: AttentionSpec, shape: AttentionShape, region: TensorRegion
    ) -> None:
        self.builder = builder
        self.attention = attention
        self.shape = shape
        self.region = region
        self.key_value = self._key_value_latent()
        self.query = self._query_latent() if attention.query_lora_rank else self._direct_query()

    def _key_value_latent(self) -> Latent:
        attention = self.attention
        return Latent(
            self.builder,
            self.region,
            self.shape,
            kind="kv",
            width=attention.kv_lora_rank + attention.rope_head_dim,
            normed_width=attention.kv_lora_rank,
            up_width=self.shape.projected_heads * (attention.nope_head_dim + attention.value_head_dim),
            down_bias=attention.qkv_bias,
        )

    def _query_latent(self) -> Latent:
        rank = self.attention.query_lora_rank
        return Latent(
            self.builder,
            self.region,
            self.shape,
            kind="q",
            width=rank,
            normed_width=rank,
            up_width=self.shape.query_width,
            down_bias=self.attention.qkv_bias,
        )

    def _direct_query(self) -> LinearLayer:
        hidden, shape = self.builder.setting.hidden, self.shape
        return LinearLayer(name="q_up", tokens=shape.gathered_tokens, width_in=hidden, width_out=shape.query_width)

    def add_forward(self) -> None:
        """Append both paths and RoPE, and count the weights."""
        b, shape, tokens = self.builder, self.shape, self.shape.gathered_tokens
        for name, width in (("q", shape.query_width), ("k", shape.key_width), ("v", shape.value_width)):
            b.tensor(name, tokens * width)
        if isinstance(self.query, Latent):
            self.query.add_forward("q")
        else:
            b.linear(self.query, self.region.enter("ln1_out"), "q")
            b.add_weights(dense=self.query.width_in * self.query.width_out)
        self.key_value.add_forward("k", "v")
        b.tensor("q_rope", tokens * shape.query_width)
        b.tensor("k_rope", tokens * shape.key_width)
        b.forward("rope", self._rope_work(), ("q", "k"), ("q_rope", "k_rope"))

    def _rope_work(self) -> MemoryWork:
        """The query is rotated in place, its rotary part alone; the key is put together from its two parts.

        Backward moves the same bytes: what was written is read.
        """
        b, shape, attention = self.builder, self.shape, self.attention
        token_bytes = shape.gathered_tokens * b.setting.activation_bytes
        rotated_query = shape.projected_heads * attention.rope_head_dim
        key_parts = shape.projected_heads * attention.nope_head_dim + attention.rope_head_dim
        return MemoryWork(
            kernel=MemoryKernel.ROPE,
            read_bytes=token_bytes * (rotated_query + key_parts),
            write_bytes=token_bytes * (rotated_query + shape.key_width),
            num_kernels=2,
        )

    def add_backward(self) -> None:
        """Append the backward operators, from the gradients of q_rope, k_rope and v to that of ln1_out."""
        b, region = self.builder, self.region
        reads, writes = ("grad:q_rope", "grad:k_rope"), ("grad:q", "grad:k")
        b.backward("rope.backward", self._rope_work(), reads, writes)
        self.key_value.add_backward("grad:k", "grad:v")
        if isinstance(self.query, Latent):
            self.query.add_backward("grad:q")
            return
        source = region.entered("ln1_out")
        target = region.inner_gradient("ln1_out", source)
        b.linear_backward(self.query, source, ("grad:q",), target)
        region.leave_backward(target, "ln1_out", "grad_ln1_out")
