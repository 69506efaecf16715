"""How tokens reach their experts and come back: by gathering all tokens, or by sending rows.

Row counts are expectations under even routing. `expert_imbalance`, or what is known of the load (`busiest`), scales the
rows of the busiest expert-parallel rank, the one that everybody waits for; what a rank itself sends out and takes back
is not scaled.
Activations travel in 16 bits, also where GEMMs run in FP8.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from meshwright.costmodel.model import MoeFfnSpec
from meshwright.costmodel.program.builder import ProgramBuilder
from meshwright.costmodel.program.operators import GRADIENT, Axis, CustomKernel, CustomWork, MemoryKernel
from meshwright.costmodel.program.setting import ProgramSetting
from meshwright.costmodel.strategy import Dispatch

WITHOUT_ROWS = 2
"""What a move of rows reads beside the rows whose products with gradients are those of gate weights."""


class TokenExchange(Protocol):
    """From ln2_out to ffn_in, and from fc2_out to ffn_out; backward the same ways for gradients.

    Backward ends in the gradient of ln2_out_routed; on the way the gradient of the gate weights (grad:routing) comes
    about: in the experts if the gate multiplies the FC2 input, otherwise where the outputs are put together.
    """

    def dispatch(self) -> None:
        """Append what brings tokens to their experts."""

    def combine(self) -> None:
        """Append what brings results back."""

    def combine_backward(self, gradient: str) -> None:
        """Append what brings the output's gradient to the experts."""

    def dispatch_backward(self) -> None:
        """Append what brings the input's gradient back."""


def busiest_rank_load(setting: ProgramSetting) -> float:
    """Rows of the busiest expert-parallel rank over the mean; for a single rank 1, or what a capacity makes of it."""
    return setting.busiest.rows_given(assumed_load(setting))


def assumed_load(setting: ProgramSetting) -> float:
    """What is taken for granted where the load of the experts is not known."""
    return min(setting.expert_imbalance, float(setting.strategy.ep))


def expert_rows(setting: ProgramSetting, moe: MoeFfnSpec) -> float:
    """Token rows that the experts of the busiest rank work on."""
    return moe.top_k * setting.tokens * setting.strategy.etp * busiest_rank_load(setting)


def gathers_tokens(setting: ProgramSetting) -> bool:
    """Whether tokens are exchanged by all-gather and reduce-scatter."""
    strategy = setting.strategy
    return strategy.dispatch is Dispatch.ALL_GATHER and strategy.ep * strategy.etp > 1


def permute(
    builder: ProgramBuilder,
    name: str,
    sizes: tuple[str, str],
    reads: tuple[str, ...],
    writes: tuple[str, ...],
    *,
    backward: bool = False,
) -> None:
    """Append a row gather or scatter: its cost is that of the rows it touches (`sizes`), not of its whole source.

    The custom kernel reads each row of its source once, however many it is copied to, and all that `sizes` has twice
    where gate weights are differentiated on the way (`reads` then has the rows themselves last).
    """
    sums = builder.bytes_of(sizes[1]) < builder.bytes_of(sizes[0])
    kernel = MemoryKernel.UNPERMUTE if sums else MemoryKernel.PERMUTE
    work = builder.memory_work(kernel, sizes[:1], sizes[1:], backward=backward)
    work = msgspec.structs.replace(work, custom=_custom(builder, sizes, reads, sums=sums))
    (builder.backward if backward else builder.forward)(name, work, reads, writes)


def _custom(builder: ProgramBuilder, sizes: tuple[str, str], reads: tuple[str, ...], *, sums: bool) -> CustomWork:
    source = builder.bytes_of(reads[0])
    if sums:
        return CustomWork(kernel=CustomKernel.UNPERMUTE, num_bytes=source + builder.bytes_of(sizes[1]))
    if len(reads) > WITHOUT_ROWS:
        both = builder.bytes_of(sizes[0]) + builder.bytes_of(sizes[1])
        return CustomWork(kernel=CustomKernel.UNPERMUTE_BACKWARD, num_bytes=source + both)
    return CustomWork(kernel=CustomKernel.PERMUTE, num_bytes=source + builder.bytes_of(sizes[1]))


class GatherExchange:
    """All tokens of the expert group to all its ranks; each picks its rows; outputs are reduce-scattered.

    Source: MegaScale-MoE (arXiv 2505.11432), section 3.2: 2 b s h (n - 1) / n elements, whatever the top-k.
    """

    def __init__(self, builder: ProgramBuilder, moe: MoeFfnSpec) -> None:
        strategy = builder.setting.strategy
        self.builder = builder
        self.rows = expert_rows(builder.setting, moe)
        self.group = builder.setting.group(strategy.ep * strategy.etp)
        self.gathered_elements = builder.setting.tokens * self.group.size * builder.setting.hidden

    def dispatch(self) -> None:
        """All-gather, then the local scatter of rows to experts."""
        b = self.builder
        b.tensor("ln2_out_ag", self.gathered_elements)
        work = b.all_gather(self.group, "ln2_out_ag")
        b.collective("dispatch", Axis.EXPERT, work, ("ln2_out",), ("ln2_out_ag",))
        b.tensor("ffn_in", self.rows * b.setting.hidden)
        permute(b, "permute", ("ffn_in", "ffn_in"), ("ln2_out_ag", "routing"), ("ffn_in",))

    def combine(self) -> None:
        """The local sum of rows into all tokens' places, then reduce-scatter."""
        b = self.builder
        b.tensor("fc2_out_rs", self.gathered_elements)
        permute(b, "unpermute", ("fc2_out", "fc2_out_rs"), ("fc2_out", "routing"), ("fc2_out_rs",))
        b.tensor("ffn_out", b.setting.tokens * b.setting.hidden)
        work = b.reduce_scatter(self.group, "fc2_out_rs")
        b.collective("combine", Axis.EXPERT, work, ("fc2_out_rs",), ("ffn_out",))

    def combine_backward(self, gradient: str) -> None:
        """All-gather of the output's gradient, then the rows of each expert."""
        b, early = self.builder, self.builder.setting.gate_before_fc2
        work = b.all_gather(self.group, "fc2_out_rs")
        b.collective_backward("combine.backward", Axis.EXPERT, work, (gradient,), ("grad:fc2_out_rs",))
        reads = ("grad:fc2_out_rs", "routing") + (() if early else ("fc2_out",))
        writes = ("grad:fc2_out",) + (() if early else ("grad:routing",))
        permute(b, "unpermute.backward", ("fc2_out", "fc2_out"), reads, writes, backward=True)

    def dispatch_backward(self) -> None:
        """The sum of rows into all tokens' places, then reduce-scatter."""
        b, early = self.builder, self.builder.setting.gate_before_fc2
        reads = ("grad:ffn_in", "routing")
        permute(b, "permute.backward", ("ffn_in", "ln2_out_ag"), reads, ("grad:ln2_out_ag",), backward=True)
        b.auxiliary("ln2_out_routed", b.bytes_of("ln2_out"))
        work = b.reduce_scatter(self.group, "ln2_out_ag")
        writes = ("grad:ln2_out_routed",) + (("grad:routing",) if early else ())
        b.collective_backward("dispatch.backward", Axis.EXPERT, work, ("grad:ln2_out_ag",), writes)


class LocalExchange:
    """All experts are on the rank: rows are only sorted by expert, and summed back."""

    def __init__(self, builder: ProgramBuilder, moe: MoeFfnSpec) -> None:
        self.builder = builder
        self.rows = expert_rows(builder.setting, moe)

    def dispatch(self) -> None:
        """Sort rows by expert."""
        b = self.builder
        b.tensor("ffn_in", self.rows * b.setting.hidden)
        permute(b, "permute", ("ffn_in", "ffn_in"), ("ln2_out", "routing"), ("ffn_in",))

    def combine(self) -> None:
        """Sum each token's rows."""
        b = self.builder
        b.tensor("ffn_out", b.setting.tokens * b.setting.hidden)
        permute(b, "unpermute", ("fc2_out", "ffn_out"), ("fc2_out", "routing"), ("ffn_out",))

    def combine_backward(self, gradient: str) -> None:
        """Each row's gradient from its token's."""
        unpermute_backward(self.builder, gradient, "fc2_out")

    def dispatch_backward(self) -> None:
        """Sum the rows' gradients into their tokens'."""
        permute_backward(self.builder, "ffn_in")


def unpermute_backward(builder: ProgramBuilder, gradient: str, rows: str) -> None:
    """Append the backward of summing `rows` into tokens; reads the rows themselves if the gate multiplied them."""
    early = builder.setting.gate_before_fc2
    reads = (gradient, "routing") + (() if early else (rows,))
    writes = (GRADIENT + rows,) + (() if early else ("grad:routing",))
    permute(builder, "unpermute.backward", (rows, rows), reads, writes, backward=True)


def permute_backward(builder: ProgramBuilder, rows: str) -> None:
    """Append the backward of picking `rows` from tokens."""
    builder.auxiliary("ln2_out_routed", builder.bytes_of("ln2_out"))
    writes = ("grad:ln2_out_routed",) + (("grad:routing",) if builder.setting.gate_before_fc2 else ())
    reads = (GRADIENT + rows, "routing")
    permute(builder, "permute.backward", (rows, "ln2_out"), reads, writes, backward=True)
