"""A layer program: its operators in program order, its tensors, its weights, and the graph between them."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

from meshwright.costmodel.program.operators import GRADIENT, Collective, CollectiveWork, Operator, Tensor
from meshwright.costmodel.value import Value

if TYPE_CHECKING:
    import networkx as nx


class Weights(Value, frozen=True, kw_only=True):
    """Parameters one rank holds, by how they are replicated.

    `dense`: replicated over dp x cp x sp (attention, norms, router, embedding, head). `ffn`: dense FFN and shared
    experts, split over `ffn_tp`, replicated over the rest of dp x cp x sp x tp. `expert`: over edp. What tp does not
    split (norms, router, MLA's down projections) stands in `dense`; that its gradients are summed over tp too under
    sequence parallelism is left out (norms and router are small; MLA's down projections with tp > 1 are not).
    """

    dense: float = 0.0
    ffn: float = 0.0
    expert: float = 0.0

    def __add__(self, other: Weights) -> Weights:
        return Weights(dense=self.dense + other.dense, ffn=self.ffn + other.ffn, expert=self.expert + other.expert)

    @property
    def non_expert(self) -> float:
        """Parameters of everything but routed experts."""
        return self.dense + self.ffn

    @property
    def total(self) -> float:
        """All parameters of the rank."""
        return self.dense + self.ffn + self.expert


class LayerProgram(Value, frozen=True, kw_only=True):
    """The operators of one layer for one micro-batch on one rank.

    `tensors` are the activations of the forward pass, the layer's input and output included; `auxiliary` are the small
    ones (softmax statistics, routing maps), which closed forms of the literature leave out. `output` is the tensor
    that the next layer takes over and therefore counts.
    """

    forward: tuple[Operator, ...]
    backward: tuple[Operator, ...]
    tensors: tuple[Tensor, ...]
    auxiliary: tuple[Tensor, ...]
    weights: Weights
    output: str

    def activation_bytes(self) -> float:
        """Bytes of every activation named in the forward pass, auxiliary ones left out."""
        return sum(tensor.num_bytes for tensor in self.tensors)

    def sizes(self) -> dict[str, float]:
        """Bytes by tensor name, auxiliary ones included."""
        return {tensor.name: tensor.num_bytes for tensor in (*self.tensors, *self.auxiliary)}

    def saved(self) -> frozenset[str]:
        """Forward tensors that the backward pass reads: what is kept when nothing is recomputed."""
        return _saved(self)

    def communicated_bytes(self, *, forward: bool) -> float:
        """Bytes one rank sends to other ranks in the forward or the backward pass, by ring and pairwise algorithms.

        all-gather and reduce-scatter: S (g-1)/g; all-to-all the same of what is sent; all-reduce twice that.
        """
        operators = self.forward if forward else self.backward
        return sum(sent_bytes(op.work) for op in operators if isinstance(op.work, CollectiveWork))

    def graph(self) -> nx.DiGraph[str]:
        """Operators as nodes (attribute `operator`), an edge where one reads what another writes.

        Several operators may write one gradient: they accumulate into it, and a reader waits for all of them.
        """
        import networkx as nx

        graph: nx.DiGraph[str] = nx.DiGraph()
        producers: dict[str, list[str]] = {}
        for op in (*self.forward, *self.backward):
            graph.add_node(op.name, operator=op)
            for name in op.reads:
                graph.add_edges_from((producer, op.name, {"tensor": name}) for producer in producers.get(name, ()))
            for name in op.writes:
                producers.setdefault(name, []).append(op.name)
        return graph


def sent_bytes(work: CollectiveWork) -> float:
    """Bytes one rank sends to others in a collective: S (g-1)/g, twice that for an all-reduce, S for a message."""
    if work.group.size == 1:
        return 0.0
    if work.collective is Collective.SEND_RECV:
        return work.num_bytes
    share = (work.group.size - 1) / work.group.size
    return work.num_bytes * share * (2.0 if work.collective is Collective.ALL_REDUCE else 1.0)


def with_prefix(program: LayerProgram, prefix: str) -> LayerProgram:
    """The same program with every operator and tensor name prefixed, so that it can stand inside another one."""
    return LayerProgram(
        forward=tuple(_prefixed_operator(op, prefix) for op in program.forward),
        backward=tuple(_prefixed_operator(op, prefix) for op in program.backward),
        tensors=tuple(msgspec.structs.replace(tensor, name=prefix + tensor.name) for tensor in program.tensors),
        auxiliary=tuple(msgspec.structs.replace(tensor, name=prefix + tensor.name) for tensor in program.auxiliary),
        weights=program.weights,
        output=prefix + program.output,
    )


def _prefixed_operator(op: Operator, prefix: str) -> Operator:
    return msgspec.structs.replace(
        op,
        name=prefix + op.name,
        reads=tuple(_prefixed_name(name, prefix) for name in op.reads),
        writes=tuple(_prefixed_name(name, prefix) for name in op.writes),
    )


def _prefixed_name(name: str, prefix: str) -> str:
    base = name.removeprefix(GRADIENT)
    return f"{GRADIENT}{prefix}{base}" if name.startswith(GRADIENT) else prefix + base


@lru_cache(maxsize=65536)
def _saved(program: LayerProgram) -> frozenset[str]:
    written = {name for op in program.forward for name in op.writes} | {tensor.name for tensor in program.tensors}
    return frozenset(name for op in program.backward for name in op.reads if name in written)
