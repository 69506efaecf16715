"""The attention half of a layer program: norm, projections, RoPE, exchanges, attention, output projection, residual.

Tensors follow figure 9 of MegaScale-MoE (arXiv 2505.11432): hidden, ln1_out, q/k/v, q_rope, k_rope, qkv_a2a, attn,
attn_a2a, attn_out, ln2_in. Names of operators are stable: the overlap scheduler and the executor join on them.
"""

from __future__ import annotations

from meshwright.costmodel.formulas.attention_pairs import causal_pairs
from meshwright.costmodel.model import AttentionSpec, LayerSpec
from meshwright.costmodel.program.builder import ProgramBuilder
from meshwright.costmodel.program.operators import (
    AttentionWork,
    Axis,
    Collective,
    CollectiveWork,
    Group,
    MemoryKernel,
)
from meshwright.costmodel.strategy import ContextMethod
from meshwright.costmodel.value import Value


class AttentionShape(Value, frozen=True, kw_only=True):
    """One rank's share of an attention block.

    tokens: in the residual stream; gathered_tokens: inside the tensor-parallel region; attended_tokens: after the
    Ulysses exchange. Heads are those of one tensor-parallel rank (`projected_*`) and after the exchange
    (`attended_*`). Key-value heads are replicated when fewer than ranks.
    """

    tokens: float
    gathered_tokens: float
    attended_tokens: float
    projected_heads: int
    projected_kv_heads: int
    attended_heads: int
    attended_kv_heads: int


def attention_shape(builder: ProgramBuilder, attention: AttentionSpec) -> AttentionShape:
    """Shapes on one rank: tp splits heads at the projection, sp (Ulysses) splits them again for attention."""
    strategy = builder.setting.strategy
    gathered = builder.setting.gathered_tokens
    kv_heads = max(1, attention.num_kv_heads // strategy.tp)
    return AttentionShape(
        tokens=builder.setting.tokens,
        gathered_tokens=gathered,
        attended_tokens=gathered * strategy.sp,
        projected_heads=attention.num_heads // strategy.tp,
        projected_kv_heads=kv_heads,
        attended_heads=attention.num_heads // (strategy.tp * strategy.sp),
        attended_kv_heads=max(1, kv_heads // strategy.sp),
    )


class AttentionBlock:
    """Adds one attention block to a program: `add_forward` first, `add_backward` when the FFN's backward is in."""

    def __init__(self, builder: ProgramBuilder, layer: LayerSpec) -> None:
        self.builder = builder
        self.spec = layer.attention
        self.hidden = builder.setting.hidden
        self.strategy = builder.setting.strategy
        self.shape = attention_shape(builder, layer.attention)
        self.norm_parameters = self.hidden * (2 if layer.norm_bias else 1)

    @property
    def tensor_group(self) -> Group:
        """The tensor-parallel communicator."""
        return self.builder.setting.group(self.strategy.tp)

    @property
    def sequence_group(self) -> Group:
        """The Ulysses communicator."""
        return self.builder.setting.group(self.strategy.sp, self.strategy.tp)

    @property
    def context_group(self) -> Group:
        """The context-parallel communicator."""
        return self.builder.setting.group(self.strategy.cp, self.strategy.tp * self.strategy.sp)

    def add_forward(self) -> None:
        """Append the forward operators."""
        b, shape = self.builder, self.shape
        b.module = "attention"
        b.tensor("hidden", shape.tokens * self.hidden)
        b.elementwise("norm1", MemoryKernel.NORM, ("hidden",), (b.tensor("ln1_out", shape.tokens * self.hidden),))
        b.add_weights(dense=self.norm_parameters)
        if self.spec.is_mla:
            self._mla_projections()
        else:
            self._projections()
        self._exchange_to_heads()
        self._attend()
        self._output_projection()
        b.tensor("ln2_in", shape.tokens * self.hidden)
        b.elementwise("residual1", MemoryKernel.RESIDUAL, ("hidden", "attn_out"), ("ln2_in",))

    def add_backward(self) -> None:
        """Append the backward operators; the gradient of ln2_in must have been written."""
        b = self.builder
        b.module = "attention"
        self._output_projection_backward()
        self._attend_backward()
        self._exchange_to_heads_backward()
        if self.spec.is_mla:
            self._mla_projections_backward()
        else:
            self._projections_backward()
        reads = ("hidden", "grad:ln1_out", "grad:ln2_in")
        b.elementwise_backward("norm1.backward", MemoryKernel.NORM, reads, ("grad:hidden",))

    # Projections of queries, keys and values.

    @property
    def _gathers(self) -> bool:
        return self.strategy.tp > 1 and self.strategy.sequence_parallel

    def _gather_input(self, source: str, width: int) -> str:
        if not self._gathers:
            return source
        target = self.builder.tensor(f"{source}_ag", self.shape.gathered_tokens * width)
        name = f"all_gather.{source}"
        self.builder.collective(
            name, Axis.TENSOR, self.builder.all_gather(self.tensor_group, target), (source,), (target,)
        )
        return target

    def _scatter_gradient(self, source: str, gathered: str) -> None:
        """Sum the tensor-parallel ranks' parts of an input gradient."""
        b, group = self.builder, self.tensor_group
        if self._gathers:
            work = b.reduce_scatter(group, gathered)
            reads = (f"grad:{gathered}",)
            b.collective_backward(f"reduce_scatter.grad_{source}", Axis.TENSOR, work, reads, (f"grad:{source}",))
        elif self.strategy.tp > 1:
            work = b.all_reduce(group, source)
            reads = (f"grad:{source}_partial",)
            b.collective_backward(f"all_reduce.grad_{source}", Axis.TENSOR, work, reads, (f"grad:{source}",))

    def _partial_gradient(self, source: str, gathered: str) -> str:
        if self.strategy.tp > 1 and not self._gathers:
            self.builder.auxiliary(f"{source}_partial", self.builder.bytes_of(source))
            return f"grad:{source}_partial"
        return f"grad:{gathered}"

    @property
    def _qkv_width(self) -> int:
        shape, spec = self.shape, self.spec
        kv_width = shape.projected_kv_heads * (spec.head_dim + spec.value_head_dim)
        return shape.projected_heads * spec.head_dim + kv_width

    def _register_qkv(self) -> None:
        b, shape, spec = self.builder, self.shape, self.spec
        b.tensor("q", shape.gathered_tokens * shape.projected_heads * spec.head_dim)
        b.tensor("k", shape.gathered_tokens * shape.projected_kv_heads * spec.head_dim)
        b.tensor("v", shape.gathered_tokens * shape.projected_kv_heads * spec.value_head_dim)

    def _rope(self) -> None:
        b = self.builder
        b.tensor("q_rope", b.bytes_of("q") / b.setting.activation_bytes)
        b.tensor("k_rope", b.bytes_of("k") / b.setting.activation_bytes)
        num_kernels = 2 if self.spec.qk_norm else 1
        b.elementwise("rope", MemoryKernel.ROPE, ("q", "k"), ("q_rope", "k_rope"), num_kernels)

    def _projections(self) -> None:
        b, spec = self.builder, self.spec
        source = self._gather_input("ln1_out", self.hidden)
        self._register_qkv()
        b.linear("qkv", self.shape.gathered_tokens, self.hidden, self._qkv_width, source, "q", "k", "v")
        biases = self._qkv_width if spec.qkv_bias else 0
        norms = 2 * spec.head_dim if spec.qk_norm else 0
        b.add_weights(dense=self.hidden * self._qkv_width + biases + norms)
        self._rope()

    def _projections_backward(self) -> None:
        b, shape = self.builder, self.shape
        reads = ("grad:q_rope", "grad:k_rope") + (("q", "k") if self.spec.qk_norm else ())
        b.elementwise_backward("rope.backward", MemoryKernel.ROPE, reads, ("grad:q", "grad:k"))
        source = "ln1_out_ag" if self._gathers else "ln1_out"
        target = self._partial_gradient("ln1_out", source)
        gradients = ("grad:q", "grad:k", "grad:v")
        b.linear_backward("qkv", shape.gathered_tokens, self.hidden, self._qkv_width, source, gradients, target)
        self._scatter_gradient("ln1_out", source)

    # Multi-head latent attention: down to a latent, norm, up to heads (DeepSeek-V2, arXiv 2405.04434, section 2.1).

    @property
    def _latent_widths(self) -> tuple[int, int]:
        return self.spec.query_lora_rank, self.spec.kv_lora_rank + self.spec.rope_head_dim

    @property
    def _up_widths(self) -> tuple[int, int]:
        heads, spec = self.shape.projected_heads, self.spec
        nope = spec.head_dim - spec.rope_head_dim
        return heads * spec.head_dim, heads * (nope + spec.value_head_dim)

    def _mla_projections(self) -> None:
        b, shape = self.builder, self.shape
        query_rank, kv_width = self._latent_widths
        query_up, kv_up = self._up_widths
        self._register_qkv()
        kv_rank = self.spec.kv_lora_rank
        if query_rank:
            self._latent("q_latent", query_rank, query_rank)
            b.linear("q_up", shape.gathered_tokens, query_rank, query_up, self._latent_input("q_latent"), "q")
            b.add_weights(dense=self.hidden * query_rank + query_rank + query_rank * query_up)
        else:
            source = self._gather_input("ln1_out", self.hidden)
            b.linear("q_up", shape.gathered_tokens, self.hidden, query_up, source, "q")
            b.add_weights(dense=self.hidden * query_up)
        self._latent("kv_latent", kv_width, kv_rank)
        b.linear("kv_up", shape.gathered_tokens, kv_rank, kv_up, self._latent_input("kv_latent"), "k", "v")
        b.add_weights(dense=self.hidden * kv_width + kv_rank + kv_rank * kv_up)
        self._rope()

    def _latent_input(self, latent: str) -> str:
        return f"{latent}_norm_ag" if self._gathers else f"{latent}_norm"

    def _latent(self, latent: str, width: int, normed_width: int) -> None:
        """Down projection on this rank's own tokens (weights replicated over tp), norm, gather over tp."""
        b, tokens = self.builder, self.shape.tokens
        b.tensor(latent, tokens * width)
        b.tensor(f"{latent}_norm", tokens * width)
        b.linear(latent.replace("latent", "down"), tokens, self.hidden, width, "ln1_out", latent)
        b.elementwise(f"norm_{latent}", MemoryKernel.NORM, (latent,), (f"{latent}_norm",))
        self._gather_input(f"{latent}_norm", width)

    def _mla_projections_backward(self) -> None:
        b, shape = self.builder, self.shape
        query_rank, _ = self._latent_widths
        query_up, kv_up = self._up_widths
        b.elementwise_backward("rope.backward", MemoryKernel.ROPE, ("grad:q_rope", "grad:k_rope"), ("grad:q", "grad:k"))
        kv_rank = self.spec.kv_lora_rank
        self._up_backward("kv_latent", "kv_up", kv_rank, kv_up, ("grad:k", "grad:v"))
        if query_rank:
            self._up_backward("q_latent", "q_up", query_rank, query_up, ("grad:q",))
            return
        source = "ln1_out_ag" if self._gathers else "ln1_out"
        target = self._partial_gradient("ln1_out", source)
        b.linear_backward("q_up", shape.gathered_tokens, self.hidden, query_up, source, ("grad:q",), target)
        self._scatter_gradient("ln1_out", source)

    def _up_backward(self, latent: str, name: str, rank: int, width: int, gradients: tuple[str, ...]) -> None:
        b, shape = self.builder, self.shape
        source = self._latent_input(latent)
        target = self._partial_gradient(f"{latent}_norm", source)
        b.linear_backward(name, shape.gathered_tokens, rank, width, source, gradients, target)
        self._scatter_gradient(f"{latent}_norm", source)
        reads = (latent, f"grad:{latent}_norm")
        b.elementwise_backward(f"norm_{latent}.backward", MemoryKernel.NORM, reads, (f"grad:{latent}",))
        down_width = round(b.bytes_of(latent) / b.setting.activation_bytes / shape.tokens)
        down = latent.replace("latent", "down")
        b.linear_backward(down, shape.tokens, self.hidden, down_width, "ln1_out", (f"grad:{latent}",), "grad:ln1_out")

    # Ulysses exchange: all sequence parts of some heads, instead of all heads of one part.

    def _exchange_to_heads(self) -> None:
        if self.strategy.sp == 1:
            return
        b = self.builder
        b.tensor("qkv_a2a", self._exchanged_elements)
        work = b.all_to_all(self.sequence_group, "qkv_a2a")
        b.collective("all_to_all.qkv", Axis.SEQUENCE, work, ("q_rope", "k_rope", "v"), ("qkv_a2a",))

    @property
    def _exchanged_elements(self) -> float:
        shape, spec = self.shape, self.spec
        kv_width = shape.attended_kv_heads * (spec.head_dim + spec.value_head_dim)
        return shape.attended_tokens * (shape.attended_heads * spec.head_dim + kv_width)

    def _exchange_to_heads_backward(self) -> None:
        if self.strategy.sp == 1:
            return
        b = self.builder
        work = b.all_to_all(self.sequence_group, "qkv_a2a")
        writes = ("grad:q_rope", "grad:k_rope", "grad:v")
        b.collective_backward("all_to_all.grad_qkv", Axis.SEQUENCE, work, ("grad:qkv_a2a",), writes)

    # Attention itself, with context parallelism.

    @property
    def _operands(self) -> tuple[str, ...]:
        return ("qkv_a2a",) if self.strategy.sp > 1 else ("q_rope", "k_rope", "v")

    def _attention_work(self, *, backward: bool) -> AttentionWork:
        setting, shape, spec = self.builder.setting, self.shape, self.spec
        cp = self.strategy.cp
        return AttentionWork(
            batch=setting.micro_batch,
            num_heads=shape.attended_heads,
            num_kv_heads=min(shape.attended_kv_heads, shape.attended_heads),
            head_dim=spec.head_dim,
            value_head_dim=spec.value_head_dim,
            query_len=setting.seq_len // cp,
            key_len=setting.seq_len,
            pairs=causal_pairs(setting.seq_len, spec.window) / cp,
            backward=backward,
        )

    @property
    def _kv_block_elements(self) -> float:
        shape, spec = self.shape, self.spec
        return shape.attended_tokens * shape.attended_kv_heads * (spec.head_dim + spec.value_head_dim)

    def _attend(self) -> None:
        b, shape, spec = self.builder, self.shape, self.spec
        b.tensor("attn", shape.attended_tokens * shape.attended_heads * spec.value_head_dim)
        b.auxiliary("attn_lse", 4.0 * shape.attended_tokens * shape.attended_heads)
        operands = (*self._operands, *self._context_exchange())
        b.forward("attention", self._attention_work(backward=False), operands, ("attn", "attn_lse"))
        if self.strategy.sp > 1:
            b.tensor("attn_a2a", b.bytes_of("attn") / b.setting.activation_bytes)
            work = b.all_to_all(self.sequence_group, "attn")
            b.collective("all_to_all.attn", Axis.SEQUENCE, work, ("attn",), ("attn_a2a",))

    def _context_exchange(self) -> tuple[str, ...]:
        """Bring the other ranks' keys and values: one all-gather, or cp - 1 ring hops."""
        cp = self.strategy.cp
        if cp == 1:
            return ()
        b = self.builder
        reads = self._operands[-2:]
        if self.strategy.context_method is ContextMethod.ALL_GATHER:
            b.tensor("kv_ag", cp * self._kv_block_elements)
            b.collective("all_gather.kv", Axis.CONTEXT, b.all_gather(self.context_group, "kv_ag"), reads, ("kv_ag",))
            return ("kv_ag",)
        b.auxiliary("kv_ring", 2 * self._kv_block_elements * b.setting.activation_bytes)
        b.collective("ring.kv", Axis.CONTEXT, self._ring_hops(cp - 1), reads, ("kv_ring",))
        return ("kv_ring",)

    def _ring_hops(self, num_hops: int) -> CollectiveWork:
        num_bytes = num_hops * self._kv_block_elements * self.builder.setting.activation_bytes
        return CollectiveWork(collective=Collective.SEND_RECV, num_bytes=num_bytes, group=self.context_group)

    def _attend_backward(self) -> None:
        b = self.builder
        if self.strategy.sp > 1:
            work = b.all_to_all(self.sequence_group, "attn_a2a")
            b.collective_backward("all_to_all.grad_attn", Axis.SEQUENCE, work, ("grad:attn_a2a",), ("grad:attn",))
        context = self._context_operand()
        gradients = tuple(f"grad:{name}" for name in self._operands)
        writes = (*gradients, *(f"grad:{name}" for name in context))
        reads = (*self._operands, *context, "attn", "attn_lse", "grad:attn")
        b.backward("attention.dgrad", self._attention_work(backward=True), reads, writes)
        self._context_exchange_backward()

    def _context_operand(self) -> tuple[str, ...]:
        if self.strategy.cp == 1:
            return ()
        return ("kv_ag",) if self.strategy.context_method is ContextMethod.ALL_GATHER else ("kv_ring",)

    def _context_exchange_backward(self) -> None:
        cp = self.strategy.cp
        if cp == 1:
            return
        b = self.builder
        writes = tuple(f"grad:{name}" for name in self._operands[-2:])
        if self.strategy.context_method is ContextMethod.ALL_GATHER:
            work = b.reduce_scatter(self.context_group, "kv_ag")
            b.collective_backward("reduce_scatter.grad_kv", Axis.CONTEXT, work, ("grad:kv_ag",), writes)
            return
        # Keys, values and the FP32-free partial gradients travel together: twice the forward hops' bytes.
        work = self._ring_hops(2 * (cp - 1))
        b.collective_backward("ring.grad_kv", Axis.CONTEXT, work, ("grad:kv_ring",), writes)

    # Output projection.

    @property
    def _projected(self) -> str:
        return "attn_a2a" if self.strategy.sp > 1 else "attn"

    @property
    def _output_width(self) -> int:
        return self.shape.projected_heads * self.spec.value_head_dim

    def _output_projection(self) -> None:
        b, shape = self.builder, self.shape
        b.tensor("attn_out", shape.tokens * self.hidden)
        b.add_weights(dense=self._output_width * self.hidden + (self.hidden if self.spec.output_bias else 0))
        target = "attn_out" if self.strategy.tp == 1 else b.tensor("attn_partial", shape.gathered_tokens * self.hidden)
        b.linear("attn_projection", shape.gathered_tokens, self._output_width, self.hidden, self._projected, target)
        if self.strategy.tp > 1:
            make = b.reduce_scatter if self._gathers else b.all_reduce
            work = make(self.tensor_group, "attn_partial")
            b.collective(f"{work.collective}.attn_out", Axis.TENSOR, work, ("attn_partial",), ("attn_out",))

    def _output_projection_backward(self) -> None:
        b, shape = self.builder, self.shape
        gradient = "grad:ln2_in"
        if self._gathers:
            gradient = "grad:attn_partial"
            work = b.all_gather(self.tensor_group, "attn_partial")
            b.collective_backward("all_gather.grad_attn_out", Axis.TENSOR, work, ("grad:ln2_in",), (gradient,))
        b.linear_backward(
            "attn_projection",
            shape.gathered_tokens,
            self._output_width,
            self.hidden,
            self._projected,
            (gradient,),
            f"grad:{self._projected}",
        )
