"""Sending token rows to their experts' ranks by all-to-all, plain or deduplicated, and gathering them over etp."""

from __future__ import annotations

import msgspec

from meshwright.costmodel.formulas.experts import expected_distinct_holders
from meshwright.costmodel.model import MoeFfnSpec
from meshwright.costmodel.program.builder import ProgramBuilder
from meshwright.costmodel.program.exchange import (
    assumed_load,
    busiest_rank_load,
    expert_rows,
    permute,
    permute_backward,
    unpermute_backward,
)
from meshwright.costmodel.program.operators import Axis, Collective, CollectiveWork, Group
from meshwright.costmodel.strategy import Dispatch
from meshwright.costmodel.value import Value


class Hop(Value, frozen=True, kw_only=True):
    """One collective on the way out: `rows_in` rows of a rank become `rows_out`, `rows_sent` are its `num_bytes`."""

    suffix: str
    collective: Collective
    group: Group
    rows_in: float
    rows_sent: float
    rows_out: float

    def reversed(self) -> Hop:
        """The same hop on the way back: a gather becomes a reduce-scatter."""
        gathers = self.collective is Collective.ALL_GATHER
        return Hop(
            suffix=self.suffix,
            collective=Collective.REDUCE_SCATTER if gathers else self.collective,
            group=self.group,
            rows_in=self.rows_out,
            rows_sent=self.rows_sent,
            rows_out=self.rows_in,
        )


class RowExchange:
    """Rows are put in order, sent, sorted by expert; results come back the same way.

    A plain all-to-all sends a row for each chosen expert. Deduplicated, one for each distinct rank; over several nodes
    one for each distinct node, forwarded over NVLink to each distinct rank there (DeepEP).
    """

    def __init__(self, builder: ProgramBuilder, moe: MoeFfnSpec) -> None:
        self.builder = builder
        self.moe = moe
        self.strategy = builder.setting.strategy
        self.rows = expert_rows(builder.setting, moe)
        self.hops = self._hops()
        self.hidden = builder.setting.hidden

    def _hops(self) -> tuple[Hop, ...]:
        setting, strategy = self.builder.setting, self.strategy
        hops = self._parallel_hops(setting.group(strategy.ep, strategy.etp)) if strategy.ep > 1 else ()
        if strategy.etp == 1:
            return hops
        rows = hops[-1].rows_out if hops else self.moe.top_k * setting.tokens * busiest_rank_load(setting)
        gathered = rows * strategy.etp
        group = setting.group(strategy.etp)
        gather = Hop(
            suffix="etp",
            collective=Collective.ALL_GATHER,
            group=group,
            rows_in=rows,
            rows_sent=gathered,
            rows_out=gathered,
        )
        return (*hops, gather)

    def _parallel_hops(self, group: Group) -> tuple[Hop, ...]:
        tokens, busiest = self.builder.setting.tokens, self.builder.setting.busiest
        assumed = assumed_load(self.builder.setting)
        if self.strategy.dispatch is not Dispatch.ALL_TO_ALL_DEDUP:
            rows, load = self.moe.top_k * tokens, busiest_rank_load(self.builder.setting)
            return (msgspec.structs.replace(self._all_to_all("", group, rows, load), rows_in=rows * busiest.filled),)
        load, node_load = busiest.copies_given(assumed), busiest.node_copies_given(assumed)
        to_ranks = self._copies(group.size) * tokens
        if group.num_nodes == 1:
            return (self._all_to_all("", group, to_ranks, load),)
        to_nodes = self._copies(group.num_nodes) * tokens
        network = self._all_to_all("network", Group(size=group.num_nodes, ranks_per_node=1), to_nodes, node_load)
        if group.ranks_per_node == 1:
            return (network,)
        inside = Group(size=group.ranks_per_node, ranks_per_node=group.ranks_per_node)
        nvlink = self._all_to_all("nvlink", inside, to_ranks, load)
        return network, msgspec.structs.replace(nvlink, rows_in=network.rows_out)

    def _all_to_all(self, suffix: str, group: Group, rows: float, load: float) -> Hop:
        return Hop(
            suffix=suffix,
            collective=Collective.ALL_TO_ALL,
            group=group,
            rows_in=rows,
            rows_sent=rows * load,
            rows_out=rows * load,
        )

    def _copies(self, num_holders: int) -> float:
        moe = self.moe
        return expected_distinct_holders(
            moe.num_experts, moe.top_k, num_holders, moe.num_expert_groups, moe.groups_per_token
        )

    def _travel(self, name: str, source: str, target: str, *, back: bool, backward: bool) -> None:
        b = self.builder
        row_bytes = self.hidden * b.setting.activation_bytes
        hops = tuple(hop.reversed() for hop in reversed(self.hops)) if back else self.hops
        for index, hop in enumerate(hops):
            step = f"{name}.{hop.suffix}" if hop.suffix else name
            is_last = index == len(hops) - 1
            reached = target if is_last else b.auxiliary(f"{step}.out", hop.rows_out * row_bytes)
            work = CollectiveWork(collective=hop.collective, num_bytes=hop.rows_sent * row_bytes, group=hop.group)
            (b.backward if backward else b.forward)(step, work, (source,), (reached,), Axis.EXPERT)
            source = reached

    def dispatch(self) -> None:
        """Put rows in order of their ranks, send them, sort them by expert."""
        b = self.builder
        b.tensor("dispatch_in", self.hops[0].rows_in * self.hidden)
        b.tensor("dispatch_out", self.hops[-1].rows_out * self.hidden)
        b.tensor("ffn_in", self.rows * self.hidden)
        permute(b, "permute", ("dispatch_in", "dispatch_in"), ("ln2_out", "routing"), ("dispatch_in",))
        self._travel("dispatch", "dispatch_in", "dispatch_out", back=False, backward=False)
        permute(b, "sort", ("ffn_in", "ffn_in"), ("dispatch_out", "routing"), ("ffn_in",))

    def combine(self) -> None:
        """Undo the sorting (summing a token's rows if deduplicated), send the rows back, sum them into tokens."""
        b = self.builder
        b.tensor("combine_in", b.elements_of("dispatch_out"))
        b.tensor("combine_out", b.elements_of("dispatch_in"))
        b.tensor("ffn_out", b.setting.tokens * self.hidden)
        permute(b, "unsort", ("fc2_out", "combine_in"), ("fc2_out", "routing"), ("combine_in",))
        self._travel("combine", "combine_in", "combine_out", back=True, backward=False)
        permute(b, "unpermute", ("combine_out", "ffn_out"), ("combine_out", "routing"), ("ffn_out",))

    def combine_backward(self, gradient: str) -> None:
        """The output's gradient to the experts."""
        b = self.builder
        unpermute_backward(b, gradient, "combine_out")
        self._travel("combine.backward", "grad:combine_out", "grad:combine_in", back=False, backward=True)
        reads, writes = ("grad:combine_in", "routing"), ("grad:fc2_out",)
        permute(b, "unsort.backward", ("fc2_out", "fc2_out"), reads, writes, backward=True)

    def dispatch_backward(self) -> None:
        """The input's gradient back to the tokens."""
        b = self.builder
        reads, writes = ("grad:ffn_in", "routing"), ("grad:dispatch_out",)
        permute(b, "sort.backward", ("ffn_in", "dispatch_out"), reads, writes, backward=True)
        self._travel("dispatch.backward", "grad:dispatch_out", "grad:dispatch_in", back=True, backward=True)
        permute_backward(b, "dispatch_in")
