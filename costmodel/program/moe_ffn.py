"""A mixture-of-experts block: router, dispatch, grouped GEMMs, combine, in the three ways of moving tokens.

Row counts are expectations under even routing; `expert_imbalance` scales the rows of the busiest rank, which is the one
that everybody waits for.
"""

from __future__ import annotations

from meshwright.costmodel.formulas.experts import expected_distinct_holders
from meshwright.costmodel.model import LayerSpec, MoeFfnSpec
from meshwright.costmodel.program.builder import ProgramBuilder
from meshwright.costmodel.program.dense_ffn import DenseFfnBlock
from meshwright.costmodel.program.operators import (
    Axis,
    Collective,
    CollectiveWork,
    GemmWork,
    Group,
    GroupedGemmWork,
    MemoryKernel,
    Pass,
)
from meshwright.costmodel.strategy import Dispatch


class MoeFfnBlock:
    """Routed experts over ep x etp ranks, shared experts over tp; reads ln2_out, writes ffn_out."""

    def __init__(self, builder: ProgramBuilder, layer: LayerSpec) -> None:
        assert isinstance(layer.ffn, MoeFfnSpec)
        self.builder = builder
        self.spec = layer.ffn
        self.setting = builder.setting
        self.strategy = builder.setting.strategy
        self.hidden = builder.setting.hidden
        self.tokens = builder.setting.tokens
        self.rows = self.spec.top_k * self.tokens * self.strategy.etp * self.setting.expert_imbalance
        self.width = self.spec.intermediate // self.strategy.etp
        self.num_local_experts = self.spec.num_experts // self.strategy.ep
        self.shared = self._shared_block()

    def _shared_block(self) -> DenseFfnBlock | None:
        if not self.spec.shared_intermediate:
            return None
        return DenseFfnBlock(
            self.builder,
            intermediate=self.spec.shared_intermediate,
            gated=self.spec.gated,
            split=self.strategy.ffn_tp,
            prefix="shared_",
            output="shared_out",
        )

    # Shape of the exchange.

    @property
    def expert_group(self) -> Group:
        """All ranks that hold one copy of the experts."""
        return self.setting.group(self.strategy.ep * self.strategy.etp)

    @property
    def _parallel_group(self) -> Group:
        return self.setting.group(self.strategy.ep, self.strategy.etp)

    @property
    def _tensor_group(self) -> Group:
        return self.setting.group(self.strategy.etp)

    @property
    def _exchanges(self) -> bool:
        return self.strategy.ep * self.strategy.etp > 1

    @property
    def _gathers(self) -> bool:
        return self._exchanges and self.strategy.dispatch is Dispatch.ALL_GATHER

    @property
    def _hidden_activations(self) -> tuple[str, ...]:
        return ("fc1_out", "fc3_out") if self.spec.gated else ("fc1_out",)

    # Forward.

    def add_forward(self) -> None:
        """Append the forward operators and count the weights."""
        b = self.builder
        self._count_weights()
        self._route()
        if self.shared:
            self.shared.add_forward()
        b.module = "experts"
        if self._gathers:
            self._dispatch_by_gather()
        else:
            self._dispatch_by_exchange()
        self._experts()
        if self._gathers:
            self._combine_by_reduce()
        else:
            self._combine_by_exchange()

    def _count_weights(self) -> None:
        spec, matrices = self.spec, 3 if self.spec.gated else 2
        expert = matrices * self.hidden * self.width
        if spec.bias:
            expert += (matrices - 1) * self.width + self.hidden
        router = self.hidden * spec.num_experts
        router += spec.num_experts * (spec.router_bias + spec.score_correction_bias)
        gate = self.hidden if spec.shared_gate else 0
        self.builder.add_weights(dense=router + gate, expert=self.num_local_experts * expert)

    def _route(self) -> None:
        b, experts = self.builder, self.spec.num_experts
        b.module = "router"
        b.auxiliary("router_logits", 4.0 * self.tokens * experts)
        b.auxiliary("routing", 8.0 * self.tokens * self.spec.top_k + 4.0 * experts)
        b.forward("router", GemmWork(m=round(self.tokens), n=experts, k=self.hidden), ("ln2_out",), ("router_logits",))
        b.elementwise("topk", MemoryKernel.ROUTER, ("router_logits",), ("routing",), num_kernels=4)

    def _dispatch_by_gather(self) -> None:
        b = self.builder
        b.tensor("ln2_out_ag", self.tokens * self.expert_group.size * self.hidden)
        work = b.all_gather(self.expert_group, "ln2_out_ag")
        b.collective("dispatch", Axis.EXPERT, work, ("ln2_out",), ("ln2_out_ag",))
        b.tensor("ffn_in", self.rows * self.hidden)
        self._permute("permute", "ffn_in", "ffn_in", ("ln2_out_ag", "routing"), ("ffn_in",))

    def _permute(
        self,
        name: str,
        read: str,
        written: str,
        reads: tuple[str, ...],
        writes: tuple[str, ...],
        *,
        backward: bool = False,
    ) -> None:
        """A row gather or scatter moves each row once; its cost is that of the rows it touches, not of its source."""
        b = self.builder
        work = b.memory_work(MemoryKernel.PERMUTE, (read,), (written,))
        (b.backward if backward else b.forward)(name, work, reads, writes)

    def _dispatch_by_exchange(self) -> None:
        b = self.builder
        if not self._exchanges:
            b.tensor("ffn_in", self.rows * self.hidden)
            self._permute("permute", "ffn_in", "ffn_in", ("ln2_out", "routing"), ("ffn_in",))
            return
        sent = self._sent_rows
        b.tensor("dispatch_in", sent * self.hidden)
        self._permute("permute", "dispatch_in", "dispatch_in", ("ln2_out", "routing"), ("dispatch_in",))
        b.tensor("dispatch_out", sent * self.strategy.etp * self.hidden)
        self._exchange("dispatch", "dispatch_in", "dispatch_out")
        b.tensor("ffn_in", self.rows * self.hidden)
        self._permute("sort", "ffn_in", "ffn_in", ("dispatch_out", "routing"), ("ffn_in",))

    @property
    def _sent_rows(self) -> float:
        """Rows a rank sends to expert-parallel ranks: one a chosen expert, or one a distinct rank."""
        if self.strategy.dispatch is not Dispatch.ALL_TO_ALL_DEDUP:
            return self.spec.top_k * self.tokens * self.setting.expert_imbalance
        copies = expected_distinct_holders(self.spec.num_experts, self.spec.top_k, self.strategy.ep)
        return copies * self.tokens * self.setting.expert_imbalance

    def _exchange(self, name: str, source: str, target: str, *, backward: bool = False) -> None:
        """Rows to their experts' ranks: over the network and NVLink, then gathered over etp."""
        num_bytes = self._sent_rows * self.hidden * self.setting.activation_bytes
        steps = self._exchange_steps(num_bytes)
        if self.strategy.etp > 1:
            gathered = num_bytes * self.strategy.etp
            steps.append(("etp", Collective.ALL_GATHER, gathered, self._tensor_group))
        self._walk(name, steps, source, target, num_bytes, backward=backward)

    def _walk(
        self,
        name: str,
        steps: list[tuple[str, Collective, float, Group]],
        source: str,
        target: str,
        num_bytes: float,
        *,
        backward: bool,
    ) -> None:
        b = self.builder
        add = b.backward if backward else b.forward
        current = source
        for index, (suffix, kind, size, place) in enumerate(steps):
            last = index == len(steps) - 1
            reached = target if last else b.auxiliary(f"{name}.{suffix}.out", num_bytes)
            work = CollectiveWork(collective=kind, num_bytes=size, group=place)
            add(f"{name}.{suffix}" if suffix else name, work, (current,), (reached,), Axis.EXPERT)
            current = reached

    def _exchange_steps(self, num_bytes: float) -> list[tuple[str, Collective, float, Group]]:
        group = self._parallel_group
        if self.strategy.ep == 1:
            return []
        if self.strategy.dispatch is not Dispatch.ALL_TO_ALL_DEDUP or group.num_nodes == 1:
            return [("", Collective.ALL_TO_ALL, num_bytes, group)]
        nodes = expected_distinct_holders(self.spec.num_experts, self.spec.top_k, group.num_nodes)
        if self.spec.num_expert_groups > 1:
            nodes = min(nodes, self.spec.groups_per_token * group.num_nodes / self.spec.num_expert_groups)
        copies = nodes * self.tokens * self.setting.expert_imbalance
        network_bytes = copies * self.hidden * self.setting.activation_bytes
        across = Group(size=group.num_nodes, ranks_per_node=1)
        inside = Group(size=group.ranks_per_node, ranks_per_node=group.ranks_per_node)
        steps = [("network", Collective.ALL_TO_ALL, network_bytes, across)]
        if inside.size > 1:
            steps.append(("nvlink", Collective.ALL_TO_ALL, num_bytes, inside))
        return steps

    def _combine_exchange(self, name: str, source: str, target: str, *, backward: bool = False) -> None:
        """The mirror image of `_exchange`: reduce over etp first, then back to the tokens' ranks."""
        num_bytes = self._sent_rows * self.hidden * self.setting.activation_bytes
        steps = self._exchange_steps(num_bytes)[::-1]
        if self.strategy.etp > 1:
            scattered = num_bytes * self.strategy.etp
            steps.insert(0, ("etp", Collective.REDUCE_SCATTER, scattered, self._tensor_group))
        self._walk(name, steps, source, target, num_bytes, backward=backward)

    def _experts(self) -> None:
        b = self.builder
        for name in self._hidden_activations:
            b.tensor(name, self.rows * self.width)
        self._grouped(
            "experts_fc1", self.hidden, self.width * len(self._hidden_activations), "ffn_in", self._hidden_activations
        )
        b.tensor("fc2_in", self.rows * self.width)
        b.elementwise("experts_activation", MemoryKernel.ACTIVATION, self._hidden_activations, ("fc2_in",))
        b.tensor("fc2_out", self.rows * self.hidden)
        self._grouped("experts_fc2", self.width, self.hidden, "fc2_in", ("fc2_out",))

    def _grouped(self, name: str, width_in: int, width_out: int, source: str, targets: tuple[str, ...]) -> None:
        b = self.builder
        operand = b.cast_input(name, self.rows * width_in, source)
        b.forward(name, self._grouped_work(width_out, width_in, Pass.FORWARD), (operand,), targets)

    def _grouped_work(self, n: int, k: int, direction: Pass) -> GroupedGemmWork:
        return GroupedGemmWork(
            num_groups=self.num_local_experts,
            rows=self.rows,
            n=n,
            k=k,
            direction=direction,
            precision=self.setting.precision,
            accumulates_fp32=direction is Pass.WGRAD and self.setting.fp32_gradients,
        )

    def _grouped_backward(
        self, name: str, width_in: int, width_out: int, source: str, gradients: tuple[str, ...], target: str
    ) -> None:
        b = self.builder
        gradients = b.cast_gradient(name, self.rows * width_out, gradients)
        b.backward(f"{name}.dgrad", self._grouped_work(width_in, width_out, Pass.DGRAD), gradients, (target,))
        work = self._grouped_work(width_out, width_in, Pass.WGRAD)
        b.backward(f"{name}.wgrad", work, (b.operand(source), *gradients), (), phase=Pass.WGRAD)

    def _combine_by_reduce(self) -> None:
        b = self.builder
        b.tensor("fc2_out_rs", self.tokens * self.expert_group.size * self.hidden)
        work = b.memory_work(MemoryKernel.PERMUTE, ("fc2_out",), ("fc2_out_rs",))
        b.forward("unpermute", work, ("fc2_out", "routing"), ("fc2_out_rs",))
        b.tensor("ffn_out", self.tokens * self.hidden)
        reduce = b.reduce_scatter(self.expert_group, "fc2_out_rs")
        b.collective("combine", Axis.EXPERT, reduce, ("fc2_out_rs",), ("ffn_out",))

    def _combine_by_exchange(self) -> None:
        b = self.builder
        source = "fc2_out"
        if self._exchanges:
            b.tensor("combine_in", b.bytes_of("dispatch_out") / self.setting.activation_bytes)
            self._permute("unsort", "fc2_out", "combine_in", ("fc2_out", "routing"), ("combine_in",))
            b.tensor("combine_out", b.bytes_of("dispatch_in") / self.setting.activation_bytes)
            self._combine_exchange("combine", "combine_in", "combine_out")
            source = "combine_out"
        b.tensor("ffn_out", self.tokens * self.hidden)
        self._permute("unpermute", source, "ffn_out", (source, "routing"), ("ffn_out",))

    # Backward.

    def add_backward(self, gradient: str, target: str) -> None:
        """Append the backward operators: from the gradient of the outputs to `target`, the gradient of ln2_out."""
        b = self.builder
        b.module = "experts"
        if self._gathers:
            self._combine_backward_by_gather(gradient)
        else:
            self._combine_backward_by_exchange(gradient)
        self._experts_backward()
        if self._gathers:
            self._dispatch_backward_by_reduce()
        else:
            self._dispatch_backward_by_exchange()
        if self.shared:
            b.module = "shared"
            b.auxiliary("ln2_out_shared", b.bytes_of("ln2_out"))
            self.shared.add_backward(gradient, "grad:ln2_out_shared")
        self._route_backward(target)

    def _combine_backward_by_gather(self, gradient: str) -> None:
        b = self.builder
        work = b.all_gather(self.expert_group, "fc2_out_rs")
        b.collective_backward("combine.backward", Axis.EXPERT, work, (gradient,), ("grad:fc2_out_rs",))
        reads = ("grad:fc2_out_rs", "routing") + (() if self.setting.gate_before_fc2 else ("fc2_out",))
        self._permute("unpermute.backward", "fc2_out", "fc2_out", reads, ("grad:fc2_out",), backward=True)

    def _combine_backward_by_exchange(self, gradient: str) -> None:
        source = "combine_out" if self._exchanges else "fc2_out"
        reads = (gradient, "routing") + (() if self.setting.gate_before_fc2 else (source,))
        self._permute("unpermute.backward", source, source, reads, (f"grad:{source}",), backward=True)
        if self._exchanges:
            self._exchange("combine.backward", "grad:combine_out", "grad:combine_in", backward=True)
            self._permute(
                "unsort.backward",
                "combine_in",
                "fc2_out",
                ("grad:combine_in", "routing"),
                ("grad:fc2_out",),
                backward=True,
            )

    def _experts_backward(self) -> None:
        b = self.builder
        self._grouped_backward("experts_fc2", self.width, self.hidden, "fc2_in", ("grad:fc2_out",), "grad:fc2_in")
        gradients = tuple(f"grad:{name}" for name in self._hidden_activations)
        reads = (*self._hidden_activations, "grad:fc2_in")
        b.elementwise_backward("experts_activation.backward", MemoryKernel.ACTIVATION, reads, gradients)
        width_out = self.width * len(gradients)
        self._grouped_backward("experts_fc1", self.hidden, width_out, "ffn_in", gradients, "grad:ffn_in")

    def _dispatch_backward_by_reduce(self) -> None:
        b = self.builder
        work = b.memory_work(MemoryKernel.PERMUTE, ("ffn_in",), ("ln2_out_ag",))
        b.backward("permute.backward", work, ("grad:ffn_in", "routing"), ("grad:ln2_out_ag",))
        b.auxiliary("ln2_out_routed", b.bytes_of("ln2_out"))
        reduce = b.reduce_scatter(self.expert_group, "ln2_out_ag")
        reads, writes = ("grad:ln2_out_ag",), ("grad:ln2_out_routed",)
        b.collective_backward("dispatch.backward", Axis.EXPERT, reduce, reads, writes)

    def _dispatch_backward_by_exchange(self) -> None:
        b = self.builder
        b.auxiliary("ln2_out_routed", b.bytes_of("ln2_out"))
        source = "ffn_in"
        if self._exchanges:
            self._permute(
                "sort.backward",
                "ffn_in",
                "dispatch_out",
                ("grad:ffn_in", "routing"),
                ("grad:dispatch_out",),
                backward=True,
            )
            self._combine_exchange("dispatch.backward", "grad:dispatch_out", "grad:dispatch_in", backward=True)
            source = "dispatch_in"
        self._permute(
            "permute.backward",
            source,
            "ln2_out",
            (f"grad:{source}", "routing"),
            ("grad:ln2_out_routed",),
            backward=True,
        )

    def _route_backward(self, target: str) -> None:
        b, experts = self.builder, self.spec.num_experts
        b.module = "router"
        b.auxiliary("ln2_out_router", b.bytes_of("ln2_out"))
        b.elementwise_backward(
            "topk.backward", MemoryKernel.ROUTER, ("router_logits", "routing"), ("grad:router_logits",), num_kernels=4
        )
        tokens = round(self.tokens)
        dgrad = GemmWork(m=tokens, n=self.hidden, k=experts)
        b.backward("router.dgrad", dgrad, ("grad:router_logits",), ("grad:ln2_out_router",))
        wgrad = GemmWork(m=self.hidden, n=experts, k=tokens, accumulates_fp32=self.setting.fp32_gradients)
        b.backward("router.wgrad", wgrad, ("ln2_out", "grad:router_logits"), (), phase=Pass.WGRAD)
        self._sum_gradients(target)

    def _sum_gradients(self, target: str) -> None:
        reads = ["grad:ln2_out_routed", "grad:ln2_out_router"]
        if self.shared:
            reads.append("grad:ln2_out_shared")
        self.builder.elementwise_backward("sum.grad_ln2_out", MemoryKernel.RESIDUAL, tuple(reads), (target,))
