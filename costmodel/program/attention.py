"""The attention half of a layer program: norm, projections, RoPE, exchanges, attention, output projection, residual.

Tensors follow figure 9 of MegaScale-MoE (arXiv 2505.11432): hidden, ln1_out, q/k/v, q_rope, k_rope, qkv_a2a, attn,
attn_a2a, attn_out, ln2_in. Names of operators are stable: the overlap scheduler and the executor join on them.
"""

from __future__ import annotations

from meshwright.costmodel.formulas.flops import attention_pairs
from meshwright.costmodel.model import LayerSpec
from meshwright.costmodel.program.attention_shape import attention_shape
from meshwright.costmodel.program.builder import ProgramBuilder
from meshwright.costmodel.program.context import ContextExchange
from meshwright.costmodel.program.linear import LinearLayer
from meshwright.costmodel.program.mla import LatentProjections
from meshwright.costmodel.program.operators import AttentionWork, Axis, Group, MemoryKernel
from meshwright.costmodel.program.projections import SHARED_KEY_VALUE, Projections
from meshwright.costmodel.program.region import TensorRegion
from meshwright.costmodel.program.split import share
from meshwright.costmodel.strategy import ContextMethod


class AttentionBlock:
    """Adds one attention block to a program: `add_forward` first, `add_backward` when the FFN's backward is in."""

    def __init__(self, builder: ProgramBuilder, layer: LayerSpec) -> None:
        self.builder = builder
        self.layer = layer
        self.spec = layer.attention
        self.hidden = builder.setting.hidden
        self.strategy = builder.setting.strategy
        self.shape = attention_shape(builder.setting, layer.attention)
        self.region = TensorRegion(builder, self.strategy.tp)
        self.context = ContextExchange(builder, self.shape)
        projections = LatentProjections if self.spec.is_mla else Projections
        self.projections = projections(builder, self.spec, self.shape, self.region)
        self.output = LinearLayer(
            name="attn_projection",
            tokens=self.shape.gathered_tokens,
            width_in=self.shape.output_width,
            width_out=self.hidden,
        )

    @property
    def sequence_group(self) -> Group:
        """The Ulysses communicator."""
        return self.builder.setting.group(self.strategy.sp, self.strategy.tp)

    def add_forward(self) -> None:
        """Append the forward operators and count the weights."""
        b, elements = self.builder, self.shape.tokens * self.hidden
        b.module = "attention"
        b.tensor("hidden", elements)
        b.elementwise("norm1", MemoryKernel.NORM, ("hidden",), (b.tensor("ln1_out", elements),))
        self.projections.add_forward()
        self._exchange_to_heads()
        self._attend()
        self._project_output()
        branch = b.post_norm("attn_out") if self.layer.num_norms > 2 else "attn_out"
        b.tensor("ln2_in", elements)
        b.elementwise("residual1", MemoryKernel.RESIDUAL, ("hidden", branch), ("ln2_in",))

    def add_backward(self) -> None:
        """Append the backward operators; the gradient of ln2_in must have been written."""
        b = self.builder
        b.module = "attention"
        self._project_output_backward()
        self._attend_backward()
        if self.strategy.sp > 1:
            work = b.all_to_all(self.sequence_group, "qkv_a2a")
            writes = tuple(f"grad:{name}" for name in self._projected)
            b.collective_backward("all_to_all.grad_qkv", Axis.SEQUENCE, work, ("grad:qkv_a2a",), writes)
        self.projections.add_backward()
        reads = ("hidden", "grad:ln1_out", "grad:ln2_in")
        b.elementwise_backward("norm1.backward", MemoryKernel.NORM, reads, ("grad:hidden",))

    # Ulysses exchange: all sequence parts of some heads, instead of all heads of one part.

    @property
    def _projected(self) -> tuple[str, ...]:
        return ("q_rope", "k_rope", "v") if self.shape.projects_key_value else ("q_rope",)

    def _exchange_to_heads(self) -> None:
        if self.strategy.sp == 1:
            return
        b = self.builder
        b.tensor("qkv_a2a", self.shape.attended_tokens * self.shape.exchanged_width)
        work = b.all_to_all(self.sequence_group, "qkv_a2a")
        b.collective("all_to_all.qkv", Axis.SEQUENCE, work, self._projected, ("qkv_a2a",))

    # Attention itself, with context parallelism.

    @property
    def _own_key_value(self) -> tuple[str, ...]:
        if not self.shape.projects_key_value:
            return (SHARED_KEY_VALUE,)
        return ("qkv_a2a",) if self.strategy.sp > 1 else ("k_rope", "v")

    @property
    def _operands(self) -> tuple[str, ...]:
        query = "qkv_a2a" if self.strategy.sp > 1 else "q_rope"
        return tuple(dict.fromkeys((query, *self._own_key_value)))

    def _attention_work(self, *, backward: bool) -> AttentionWork:
        """A ring meets one rank's keys at a time: cp pieces, as long as a rank's own tokens."""
        setting, shape, cp = self.builder.setting, self.shape, self.strategy.cp
        pieces = cp if self.strategy.context_method is ContextMethod.RING else 1
        return AttentionWork(
            batch=setting.micro_batch * pieces,
            num_heads=shape.attended_heads,
            num_kv_heads=min(shape.attended_kv_heads, shape.attended_heads),
            head_dim=shape.head_dim,
            value_head_dim=shape.value_head_dim,
            query_len=share(setting.seq_len, cp),
            key_len=share(setting.seq_len, pieces),
            pairs=attention_pairs(self.spec, setting.seq_len) / cp / pieces,
            backward=backward,
        )

    def _attend(self) -> None:
        b, shape = self.builder, self.shape
        self.context.add_forward(self._own_key_value)
        b.tensor("attn", shape.attended_tokens * shape.attended_heads * shape.value_head_dim)
        b.auxiliary("attn_lse", 4.0 * shape.attended_tokens * shape.attended_heads)
        reads = (*self._operands, *self.context.operands)
        b.forward("attention", self._attention_work(backward=False), reads, ("attn", "attn_lse"))
        b.add_weights(dense=shape.projected_heads if self.spec.sinks else 0)
        if self.strategy.sp > 1:
            b.tensor("attn_a2a", self.output.tokens * self.output.width_in)
            work = b.all_to_all(self.sequence_group, "attn")
            b.collective("all_to_all.attn", Axis.SEQUENCE, work, ("attn",), ("attn_a2a",))

    def _attend_backward(self) -> None:
        b = self.builder
        if self.strategy.sp > 1:
            work = b.all_to_all(self.sequence_group, "attn")
            b.collective_backward("all_to_all.grad_attn", Axis.SEQUENCE, work, ("grad:attn_a2a",), ("grad:attn",))
        operands = (*self._operands, *self.context.operands)
        writes = tuple(f"grad:{name}" for name in operands)
        reads = (*operands, "attn", "attn_lse", "grad:attn")
        b.backward("attention.dgrad", self._attention_work(backward=True), reads, writes)
        self.context.add_backward(self._own_key_value)

    # Output projection.

    @property
    def _attended(self) -> str:
        return "attn_a2a" if self.strategy.sp > 1 else "attn"

    def _project_output(self) -> None:
        b, elements = self.builder, self.shape.tokens * self.hidden
        bias = self.hidden if self.spec.output_bias else 0
        b.add_weights(dense=self.output.width_in * self.hidden + bias)
        if self.strategy.tp == 1:
            b.linear(self.output, self._attended, b.tensor("attn_out", elements))
            return
        b.linear(self.output, self._attended, b.tensor("attn_partial", self.output.tokens * self.hidden))
        self.region.leave("attn_partial", "attn_out", elements)

    def _project_output_backward(self) -> None:
        b, gradient = self.builder, "grad:ln2_in"
        if self.layer.num_norms > 2:
            gradient = b.post_norm_backward("attn_out", gradient)
        gradient = self.region.enter_backward(gradient, "attn_partial", "attn_out")
        b.linear_backward(self.output, self._attended, (gradient,), f"grad:{self._attended}")
