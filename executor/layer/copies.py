"""Where copies of tokens go when each holder of chosen experts gets one, however many of its experts a token chose.

A *holder* is a rank of the expert group or, over several nodes, first a node and then a rank of it: a *hop* for each. N
tokens at the begin of a hop; a copy takes all K choices of its token along, their experts and their gate weights, and
whoever gets it picks those that are here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.program.operators import Group
from meshwright.executor.layer.collectives import all_gather_rows, all_to_all_parts, all_to_all_rows
from meshwright.executor.layer.context import LayerContext
from meshwright.executor.layer.exchange_room import EXCHANGES
from meshwright.executor.layer.groups import Communicator
from meshwright.executor.layer.host_reads import HostReads
from meshwright.executor.layer.row_maps import ExchangedLayout, balanced_experts, first_rows
from meshwright.kernels.index.contract import RowMap
from meshwright.kernels.index.operator import index

NOWHERE = -1
COPIED_ROWS = EXCHANGES - 1
"""The number of the rows that copies make, behind those of the hops."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """One exchange. rowmap: the copies of tokens, in the order of `ranks`; a holder's first choice stands for its copy.

    copies_NK: the copy that takes each choice along, -1 for choices that go nowhere. sent, received: copies to and from
    every rank.
    """

    ranks: Communicator
    rowmap: RowMap
    copies_NK: Tensor
    sent: list[int]
    received: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyLayout(ExchangedLayout):
    """Copies of tokens are sent to the ranks of their experts.

    hops: by the end of their operators' names, in order. rowmap: from the copies here, those of ranks that share the
    experts included, (N, K), to the rows of this rank's experts. gates_NK: gate weights of the copies here.
    """

    hops: dict[str, Hop]
    rowmap: RowMap
    gates_NK: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Holders:
    """The ranks of a hop; the group's rank that the first one's experts begin at, and ranks of the group a holder."""

    ranks: Communicator
    first: int
    each: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HopSizes:
    """Copies to and from every rank; num_rows: choices of what arrives that are of experts here, if no hop follows."""

    sent: list[int]
    received: list[int]
    num_rows: int


def copy_layout(experts_TK: Tensor, weights_TK: Tensor, layer: LayerContext, host: HostReads) -> CopyLayout:
    """The layout of the copies of this rank's tokens; a choice that is dropped has expert number E.

    Without room, the host reads how many copies each hop sends and receives; the last hop also brings how many rows
    they make.
    """
    experts, gates, num_rows, num_arrived = experts_TK, weights_TK, 0, 0
    hops = {}
    for number, (suffix, holders) in enumerate(holders_of(layer).items()):
        hop, num_rows = _hop(experts, experts_TK.shape[0], holders, number, layer, host)
        num_arrived = sum(hop.received)
        slots = hop.rowmap.slots_P
        tokens, filling = (slots // layer.moe.top_k).clamp(min=0), (slots < 0).unsqueeze(1)
        with host.exchange(hop.ranks):
            experts, gates = (
                all_to_all_rows(choices, hop.received, hop.sent, hop.ranks)
                for choices in (
                    experts.index_select(0, tokens).masked_fill(filling, NOWHERE),
                    gates.index_select(0, tokens),
                )
            )
        hops[suffix] = hop
    per_rank, own = layer.experts_per_rank, layer.groups.expert.rank
    parts = None if layer.routing.balanced else host.room_of_one(COPIED_ROWS, own)
    sharing, block = layer.groups.expert_tensor, num_arrived
    if sharing.size > 1:
        if parts is None:
            block, num_rows = _of_all_sharing(num_arrived, num_rows, layer, host)
        with host.exchange(sharing):
            experts = all_gather_rows(_filled(experts, block, NOWHERE), sharing)
            gates = all_gather_rows(_filled(gates, block, 0), sharing)
    rowmap = index(experts, per_rank, first_expert=own * per_rank, parts=parts)
    host.note(COPIED_ROWS, rowmap.counts_E, first_rank=own)
    if parts is None:
        rowmap = first_rows(rowmap, num_rows)
    return CopyLayout(
        hops=hops,
        rowmap=rowmap,
        gates_NK=gates,
        num_arrived=num_arrived,
        block=block,
        offsets_E=rowmap.offsets_E,
        roomy=None if parts is None else rowmap,
    )


def _filled(choices_NK: Tensor, num_rows: int, value: int) -> Tensor:
    """So many rows, those behind the last with a value of their own."""
    return F.pad(choices_NK, (0, 0, 0, num_rows - choices_NK.shape[0]), value=value)


def _of_all_sharing(num_arrived: int, num_rows: int, layer: LayerContext, host: HostReads) -> tuple[int, int]:
    """Of the ranks that share experts: the most copies that one has received, and the rows of all."""
    sharing = layer.groups.expert_tensor
    if layer.routing.balanced:
        return num_arrived, sharing.size * num_rows
    own = torch.tensor([[num_arrived, num_rows]], dtype=torch.int64, device=layer.device)
    with host.exchange(sharing):
        numbers = host.read(all_gather_rows(own, sharing))
    return max(numbers[::2]), sum(numbers[1::2])


def holders_of(layer: LayerContext) -> dict[str, Holders]:
    """As the program has them: ranks, or nodes and then ranks of a node."""
    groups, strategy = layer.groups, layer.setting.strategy
    group: Group = layer.setting.group(strategy.ep, strategy.etp)
    if group.num_nodes == 1:
        return {"": Holders(ranks=groups.expert, first=0, each=1)}
    inside = group.ranks_per_node
    if inside == 1:
        return {"network": Holders(ranks=groups.expert, first=0, each=1)}
    if (groups.expert_inside.size, groups.expert_across.size) != (inside, group.num_nodes):
        raise StrategyError("layer", "dispatch", f"no process groups for {group.num_nodes} nodes of {inside} ranks")
    node = groups.expert.rank // inside
    return {
        "network": Holders(ranks=groups.expert_across, first=0, each=inside),
        "nvlink": Holders(ranks=groups.expert_inside, first=node * inside, each=1),
    }


def _hop(
    experts_NK: Tensor, num_tokens: int, holders: Holders, number: int, layer: LayerContext, host: HostReads
) -> tuple[Hop, int]:
    """A hop, and how many choices of what it brings are of experts here, if it is the last and the host reads them.

    `num_tokens`: of a rank. `number`: of the exchange.
    """
    ranks, top_k = holders.ranks, layer.moe.top_k
    targets = (experts_NK // layer.experts_per_rank - holders.first) // holders.each
    elsewhere = (targets < 0) | (targets >= ranks.size)
    targets = targets.masked_fill(elsewhere, NOWHERE).to(torch.int32)
    choices = torch.arange(top_k, device=targets.device)
    same = targets.unsqueeze(2) == targets.unsqueeze(1)
    first = same.to(torch.int32).mul(top_k - choices).argmax(2)
    parts = None if layer.routing.balanced else host.room_to_all(number, ranks.size)
    rowmap = index(targets.masked_fill(first != choices, NOWHERE), ranks.size, parts=parts)
    host.note(number, rowmap.counts_E, num_ranks=ranks.size)
    if layer.routing.balanced:
        sizes = balanced_sizes(num_tokens, holders, layer)
    elif parts is not None:
        received = [parts.rows[ranks.rank]] * ranks.size
        sizes = HopSizes(sent=list(parts.rows), received=received, num_rows=0)
    else:
        sizes = _exchanged_sizes(targets, rowmap, ranks, host)
    hop = Hop(
        ranks=ranks,
        rowmap=first_rows(rowmap, sum(sizes.sent)),
        copies_NK=rowmap.places_TK.gather(1, first).masked_fill(elsewhere, NOWHERE),
        sent=sizes.sent,
        received=sizes.received,
    )
    return hop, sizes.num_rows


def _exchanged_sizes(targets_NK: Tensor, rowmap: RowMap, ranks: Communicator, host: HostReads) -> HopSizes:
    ones = torch.ones(targets_NK.numel(), dtype=torch.int64, device=targets_NK.device)
    rows = torch.zeros(ranks.size + 1, dtype=torch.int64, device=targets_NK.device)
    rows.scatter_add_(0, targets_NK.flatten().to(torch.int64) + 1, ones)
    sending = torch.stack((rowmap.counts_E.to(torch.int64), rows[1:]), 1)
    with host.exchange(ranks):
        arriving = all_to_all_parts(sending, ranks)
    numbers = host.read(torch.cat((sending[:, 0], arriving[:, 0], arriving[:, 1].sum(0, keepdim=True))))
    return HopSizes(sent=numbers[: ranks.size], received=numbers[ranks.size : -1], num_rows=numbers[-1])


def balanced_sizes(num_tokens: int, holders: Holders, layer: LayerContext) -> HopSizes:
    """The same where tokens go to experts in turn: every rank of the group has the same `num_tokens`."""
    moe, ranks, num_ranks = layer.moe, holders.ranks, layer.groups.expert.size
    copies, rows = balanced_copies(num_tokens, moe.num_experts, moe.top_k, num_ranks // holders.each)
    sources = num_ranks // ranks.size if holders.each == 1 else 1
    here = [sources * copies[holders.first + target] for target in range(ranks.size)]
    own = holders.first + ranks.rank
    return HopSizes(sent=here, received=[here[ranks.rank]] * ranks.size, num_rows=num_ranks * rows[own])


@lru_cache(maxsize=8)
def balanced_copies(
    num_tokens: int, num_experts: int, top_k: int, num_holders: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """How many tokens, and how many choices, of a rank go to each holder under balanced routing."""
    experts = balanced_experts(num_tokens, num_experts, top_k, torch.device("cpu"))
    holders = experts // (num_experts // num_holders)
    by_holder = torch.nn.functional.one_hot(holders, num_holders).sum(1)
    return tuple((by_holder > 0).sum(0).tolist()), tuple(by_holder.sum(0).tolist())


def of_choices(numbers_PK: Tensor, hop: Hop) -> Tensor:
    """What each choice's copy has in the choice's place, (N, K); 0 for choices that went nowhere."""
    if numbers_PK.shape[0] == 0:
        return numbers_PK.new_zeros(hop.copies_NK.shape)
    choices = torch.arange(numbers_PK.shape[1], device=numbers_PK.device)
    return numbers_PK[hop.copies_NK.clamp(min=0), choices].masked_fill(hop.copies_NK < 0, 0)
