"""Every way to run one layer at one shape, costed: what the inner solver chooses from.

A strategy is an attention split (all of the group as tp, or all as Ulysses sp; a pinned mix), how context parallelism
exchanges keys, how tokens are dispatched, how shared and dense feed-forward weights are split, and what is recomputed.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from meshwright.costmodel.model import LayerSpec, MoeFfnSpec
from meshwright.costmodel.program.operators import Precision
from meshwright.costmodel.strategy import ContextMethod, Dispatch, LayerStrategy, Recompute
from meshwright.planner.fixes import OFFLOADING, AttentionChoice, FfnChoice, Fixes, OffloadChoice
from meshwright.planner.space import LayerShape

RECOMPUTE_ORDER = tuple(policy for policy in Recompute if policy is not Recompute.EVERY_SECOND_GEMM)
"""Policies of the space; torchtitan's per-operator rule (every second product) only where pinned."""


@lru_cache(maxsize=4096)
def layer_strategies(
    layer: LayerSpec, shape: LayerShape, fixes: Fixes, precision: Precision, gpus_per_node: int
) -> tuple[LayerStrategy, ...]:
    """Strategies of one layer kind that keep everything; recomputation multiplies them."""
    return tuple(
        LayerStrategy(
            tp=tp,
            sp=sp,
            cp=shape.cp,
            context_method=method,
            ffn_tp=ffn_tp,
            ep=shape.ep if layer.is_moe else 1,
            etp=shape.etp if layer.is_moe else 1,
            dispatch=dispatch,
            communication=communication,
        )
        for tp, sp in attention_splits(layer, shape, fixes)
        for method in _context_methods(shape, fixes)
        for dispatch in _dispatches(layer, shape, fixes, gpus_per_node)
        for ffn_tp in _ffn_splits(layer, tp, sp, fixes)
        for communication in _communications(precision, shape.group * shape.ep * shape.etp, fixes)
    )


def _communications(precision: Precision, num_ranks: int, fixes: Fixes) -> tuple[Precision, ...]:
    """Formats in which activations may travel: FP8 only where training is in FP8 already, or where it is pinned."""
    if fixes.wire is not None and num_ranks > 1:
        return (fixes.wire,)
    return tuple(Precision) if precision is Precision.FP8 and num_ranks > 1 else (Precision.BF16,)


def recompute_policies(fixes: Fixes) -> tuple[Recompute, ...]:
    """Recomputation to choose from."""
    return (fixes.recompute,) if fixes.recompute else RECOMPUTE_ORDER


def offloads(policy: Recompute, fixes: Fixes) -> tuple[bool, ...]:
    """Whether the FFN's widest tensors may wait in host memory: beside keeping the rest, or SAR, unless pinned."""
    possible = policy in OFFLOADING
    if fixes.offload is OffloadChoice.ACTIVATIONS:
        return (True,) if possible else ()
    return (False, True) if possible and fixes.offload is None else (False,)


def attention_splits(layer: LayerSpec, shape: LayerShape, fixes: Fixes) -> Iterator[tuple[int, int]]:
    """(tp, sp) with tp x sp = group: pure ones, and the pinned mix. Key-value heads must divide or be replicated."""
    group = shape.group
    kv_heads = layer.attention.num_kv_heads
    splits = {(group, 1), (1, group)}
    if fixes.tp and group % fixes.tp == 0:
        splits.add((fixes.tp, group // fixes.tp))
    if fixes.sp and group % fixes.sp == 0:
        splits.add((group // fixes.sp, fixes.sp))
    for tp, sp in sorted(splits):
        if not fixes.allows(tp=tp, sp=sp) or not _splits_heads(kv_heads, tp, sp):
            continue
        if fixes.attention is AttentionChoice.TENSOR and sp > 1:
            continue
        if fixes.attention is AttentionChoice.ULYSSES and tp > 1:
            continue
        yield tp, sp


def _splits_heads(kv_heads: int, tp: int, sp: int) -> bool:
    return kv_heads % (tp * sp) == 0 or (tp * sp) % kv_heads == 0


def _context_methods(shape: LayerShape, fixes: Fixes) -> tuple[ContextMethod, ...]:
    if shape.cp == 1:
        return (ContextMethod.ALL_GATHER,)
    if fixes.attention is AttentionChoice.RING:
        return (ContextMethod.RING,)
    if fixes.attention is AttentionChoice.ALL_GATHER:
        return (ContextMethod.ALL_GATHER,)
    return tuple(ContextMethod)


def _dispatches(layer: LayerSpec, shape: LayerShape, fixes: Fixes, gpus_per_node: int) -> tuple[Dispatch, ...]:
    """Inside a node a plain all-to-all only sends more than a deduplicated one, which takes two hops between nodes."""
    if not layer.is_moe or shape.ep * shape.etp == 1:
        return (Dispatch.ALL_TO_ALL,)
    if fixes.dispatch:
        return (fixes.dispatch,)
    if shape.ep == 1:
        return (Dispatch.ALL_GATHER,)
    spans_nodes = shape.ep * shape.etp > gpus_per_node
    plain = (Dispatch.ALL_TO_ALL,) if spans_nodes else ()
    return Dispatch.ALL_TO_ALL_DEDUP, *plain, Dispatch.ALL_GATHER


def _ffn_splits(layer: LayerSpec, tp: int, sp: int, fixes: Fixes) -> tuple[int, ...]:
    """Over how many ranks dense FFN weights (or shared experts) are split: tp, or all of a Ulysses group too."""
    if isinstance(layer.ffn, MoeFfnSpec):
        width = layer.ffn.shared_intermediate
        if not width:
            return (tp,)
        choices = {tp, tp * sp}
    else:
        width = layer.ffn.intermediate
        choices = {tp, tp * sp}
        if fixes.ffn is FfnChoice.TENSOR:
            choices = {tp * sp}
        if fixes.ffn is FfnChoice.REPLICATED:
            choices = {1}
    return tuple(sorted(choice for choice in choices if width % choice == 0))
