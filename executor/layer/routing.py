"""From chosen experts to the layout of rows: who goes where, in which order, and how many.

Experts lie in order on the ranks of the expert group, `experts_per_rank` on each. Rows are sorted by expert, those of
an expert by token.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from meshwright.costmodel.strategy import Dispatch
from meshwright.executor.layer.collectives import all_gather_rows, all_to_all_parts
from meshwright.executor.layer.context import LayerContext
from meshwright.executor.layer.copies import copy_layout
from meshwright.executor.layer.host_reads import HostReads
from meshwright.executor.layer.row_maps import ExchangedLayout, Layout, balanced_counts, first_rows
from meshwright.kernels.index.contract import Parts, RowMap
from meshwright.kernels.index.operator import index
from meshwright.kernels.regroup.operator import regroup

EXPERTS = "experts"
WEIGHTS = "weights"
LAYOUT = "layout"
GATES = "gates"
ROWS = 0
"""The number of the exchange of rows, or of what is picked of gathered tokens, the layer's only one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SortedSlots:
    """The (token, choice) slots of this rank's tokens, sorted by expert.

    slots_R: slot numbers in the order of experts; places_TK: where each slot stands in that order.
    """

    slots_R: Tensor
    places_TK: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalLayout(Layout):
    """All experts are here: rows are this rank's slots."""

    rowmap: RowMap


@dataclass(frozen=True, slots=True, kw_only=True)
class RowLayout(ExchangedLayout):
    """Rows are sent to the ranks of their experts.

    rowmap: this rank's slots in the order of all experts. sent, received: rows to and from every rank; where these have
    room for more than there are, each rank's begin with those that there are. arrived: what arrived, one choice a row,
    in the order of this rank's experts.
    """

    rowmap: RowMap
    sent: list[int]
    received: list[int]
    arrived: RowMap


@dataclass(frozen=True, slots=True, kw_only=True)
class GatherLayout(Layout):
    """All tokens of the group are here, and this rank picks the rows of its experts.

    rowmap: slots of all tokens in the order of this rank's experts. weights_TK: gate weights of all tokens.
    """

    rowmap: RowMap
    weights_TK: Tensor


def plan_layout(experts_TK: Tensor, weights_TK: Tensor, layer: LayerContext, host: HostReads) -> Layout:
    """The layout of the rows of this rank's tokens; a choice that is dropped has expert number E."""
    if layer.groups.routed.size == 1:
        rowmap = index(experts_TK, layer.moe.num_experts)
        return LocalLayout(rowmap=rowmap, offsets_E=rowmap.offsets_E, roomy=rowmap if layer.drops_tokens else None)
    if layer.setting.strategy.dispatch is Dispatch.ALL_GATHER:
        return _gather_layout(experts_TK, weights_TK, layer, host)
    if layer.setting.strategy.dispatch is Dispatch.ALL_TO_ALL_DEDUP and layer.groups.expert.size > 1:
        return copy_layout(experts_TK, weights_TK, layer, host)
    return _row_layout(experts_TK, layer, host)


def sort_slots(experts_TK: Tensor) -> tuple[SortedSlots, Tensor]:
    """The slots in the order of experts, and the experts in that order."""
    ordered, slots = torch.sort(experts_TK.flatten(), stable=True)
    return SortedSlots(slots_R=slots, places_TK=inverse(slots).view_as(experts_TK)), ordered


def inverse(order: Tensor) -> Tensor:
    """The inverse of a permutation."""
    places = torch.empty_like(order)
    return places.scatter_(0, order, torch.arange(order.numel(), device=order.device))


def expert_ends(ordered_experts: Tensor, num_experts: int) -> Tensor:
    """Ends (int32) of the experts' rows among rows sorted by expert: a search, which no host waits for."""
    numbers = torch.arange(num_experts, device=ordered_experts.device, dtype=ordered_experts.dtype)
    return torch.searchsorted(ordered_experts, numbers, right=True, out_int32=True)


def _row_layout(experts_TK: Tensor, layer: LayerContext, host: HostReads) -> RowLayout:
    parts = None if layer.routing.balanced else host.room_to_all(ROWS, layer.groups.expert.size)
    if parts is not None:
        return _roomy_layout(experts_TK, parts, layer, host)
    rowmap = index(experts_TK, layer.moe.num_experts)
    counts = _exchanged_counts(rowmap, layer, host)
    arrived = _arrived(counts)
    return RowLayout(
        rowmap=first_rows(rowmap, sum(counts.sent)),
        sent=counts.sent,
        received=counts.received,
        num_arrived=sum(counts.received),
        arrived=arrived,
        block=max(counts.blocks),
        offsets_E=arrived.offsets_E,
    )


def _roomy_layout(experts_TK: Tensor, parts: Parts, layer: LayerContext, host: HostReads) -> RowLayout:
    """A layout with room for so many rows to each rank, from every rank: nothing waits."""
    ranks, sharing = layer.groups.expert, layer.groups.expert_tensor
    rowmap = index(experts_TK, layer.moe.num_experts, parts=parts)
    host.note(ROWS, rowmap.counts_E, num_ranks=ranks.size)
    with host.exchange(layer.groups.routed):
        arriving = all_gather_rows(all_to_all_parts(parts.placed_counts(rowmap), ranks), sharing)
    block = ranks.size * parts.rows[ranks.rank]
    arrived = regroup(arriving, sharing.size * block, in_parts=True)
    return RowLayout(
        rowmap=rowmap,
        sent=list(parts.rows),
        received=[parts.rows[ranks.rank]] * ranks.size,
        num_arrived=block,
        arrived=arrived,
        block=block,
        offsets_E=arrived.offsets_E,
        roomy=arrived,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Counts:
    """Rows to and from each rank, and in each block: what each of the ranks that share experts has received.

    arriving: rows of each block from each rank to each expert here (on the device).
    """

    sent: list[int]
    received: list[int]
    blocks: list[int]
    arriving: Tensor


def _arrived(counts: _Counts) -> RowMap:
    """Where arrived rows go. What fills blocks up is sorted as rows of an expert behind the last, and left out."""
    num_blocks, block, num_rows = len(counts.blocks), max(counts.blocks), sum(counts.blocks)
    if num_blocks == 1:
        return regroup(counts.arriving[0], num_rows)
    filling = F.pad(
        block - counts.arriving.sum((1, 2), dtype=torch.int32).view(-1, 1, 1), (counts.arriving.shape[2], 0)
    )
    sources = torch.cat((F.pad(counts.arriving, (0, 1)).to(torch.int32), filling), 1).flatten(0, 1)
    full = regroup(sources, num_blocks * block)
    return RowMap(
        slots_P=full.slots_P.narrow(0, 0, num_rows),
        places_TK=full.places_TK.masked_fill(full.places_TK >= num_rows, -1),
        counts_E=full.counts_E[:-1],
        offsets_E=full.offsets_E[:-1],
        tile=full.tile,
    )


def _exchanged_counts(rowmap: RowMap, layer: LayerContext, host: HostReads) -> _Counts:
    ranks, sharing, per_rank, moe = layer.groups.expert, layer.groups.expert_tensor, layer.experts_per_rank, layer.moe
    if layer.routing.balanced:
        counts = balanced_counts(rowmap.places_TK.shape[0], moe.num_experts, moe.top_k)
        per_target = [counts[first : first + per_rank] for first in range(0, moe.num_experts, per_rank)]
        own = per_target[ranks.rank]
        sent, received = [sum(target) for target in per_target], [sum(own)] * ranks.size
        arriving = _on_device(own, sharing.size * ranks.size, layer.device).unflatten(0, (sharing.size, -1))
        return _Counts(sent=sent, received=received, blocks=[sum(received)] * sharing.size, arriving=arriving)
    sending = rowmap.counts_E.view(ranks.size, per_rank)
    host.note(ROWS, rowmap.counts_E, num_ranks=ranks.size)
    with host.exchange(layer.groups.routed):
        own_rows = all_to_all_parts(sending, ranks)
        arriving = all_gather_rows(own_rows, sharing).unflatten(0, (sharing.size, -1))
    numbers = host.read(torch.cat((sending.sum(1), own_rows.sum(1), arriving.flatten(1).sum(1))))
    return _Counts(
        sent=numbers[: ranks.size],
        received=numbers[ranks.size : 2 * ranks.size],
        blocks=numbers[2 * ranks.size :],
        arriving=arriving,
    )


@lru_cache(maxsize=8)
def _on_device(counts: tuple[int, ...], num_ranks: int, device: torch.device) -> Tensor:
    """The same counts from every rank, copied to the device once."""
    return torch.tensor([counts] * num_ranks, dtype=torch.int32, device=device)


def _gather_layout(experts_TK: Tensor, weights_TK: Tensor, layer: LayerContext, host: HostReads) -> GatherLayout:
    ranks, per_rank = layer.groups.routed, layer.experts_per_rank
    with host.exchange(ranks):
        experts, weights = all_gather_rows(experts_TK, ranks), all_gather_rows(weights_TK, ranks)
    own = layer.groups.expert.rank
    parts = None if layer.routing.balanced else host.room_of_one(ROWS, own)
    rowmap = index(experts, per_rank, first_expert=own * per_rank, parts=parts)
    host.note(ROWS, rowmap.counts_E, first_rank=own)
    if parts is None:
        rowmap = first_rows(rowmap, _num_local_rows(experts_TK.shape[0], rowmap.offsets_E, layer, host))
    roomy = None if parts is None else rowmap
    return GatherLayout(rowmap=rowmap, weights_TK=weights, offsets_E=rowmap.offsets_E, roomy=roomy)


def _num_local_rows(num_tokens: int, offsets_E: Tensor, layer: LayerContext, host: HostReads) -> int:
    if not layer.routing.balanced:
        return host.read(offsets_E[-1:])[0]
    ranks, per_rank = layer.groups.expert, layer.experts_per_rank
    counts = balanced_counts(num_tokens, layer.moe.num_experts, layer.moe.top_k)
    return layer.groups.routed.size * sum(counts[ranks.rank * per_rank : (ranks.rank + 1) * per_rank])
