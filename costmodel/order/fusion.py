"""Which communication and matrix product can be one fused kernel (how long it runs: `formulas/fusion.py`).

The pairs are data: those of MegaScale-MoE (arXiv 2505.11432, section 4.2: GEMM + all-to-all, all-to-all + GEMM,
all-gather + scatter + grouped GEMM, grouped GEMM + gather + reduce-scatter), the tensor-parallel ones (FLUX,
arXiv 2406.06858: all-gather + GEMM, GEMM + reduce-scatter) and ring attention's exchange of keys and values with
attention. Memory-bound operators between the two (scatter, gather, RoPE) become part of the kernel. Fused kernels read
and write peers' memory over NVLink; nothing that crosses nodes is fused, ring attention apart.
"""

from __future__ import annotations

from meshwright.costmodel.order.signature import Signature
from meshwright.costmodel.overlap import LayerOverlap, OverlapLevel
from meshwright.costmodel.program.operators import (
    AttentionWork,
    Axis,
    Collective,
    GemmWork,
    GroupedGemmWork,
    MemoryWork,
    Pass,
    Resource,
)
from meshwright.costmodel.value import Value

_BEFORE: dict[tuple[Axis, Collective], tuple[type, ...]] = {
    (Axis.SEQUENCE, Collective.ALL_TO_ALL): (GemmWork,),
    (Axis.TENSOR, Collective.REDUCE_SCATTER): (GemmWork, GroupedGemmWork),
    (Axis.EXPERT, Collective.REDUCE_SCATTER): (GroupedGemmWork,),
    (Axis.CONTEXT, Collective.SEND_RECV): (AttentionWork,),
}
"""Communication whose input a product computes tile by tile."""

_AFTER: dict[tuple[Axis, Collective], tuple[type, ...]] = {
    (Axis.SEQUENCE, Collective.ALL_TO_ALL): (GemmWork,),
    (Axis.TENSOR, Collective.ALL_GATHER): (GemmWork, GroupedGemmWork),
    (Axis.EXPERT, Collective.ALL_GATHER): (GroupedGemmWork,),
    (Axis.CONTEXT, Collective.SEND_RECV): (AttentionWork,),
}
"""Communication whose output a product consumes tile by tile."""


class FusedPair(Value, frozen=True, kw_only=True):
    """Indices of the operators that one kernel runs, in program order, with its communication and its product."""

    members: tuple[int, ...]
    communication: int
    product: int


def fused_pairs(operators: tuple[Signature, ...], overlap: LayerOverlap) -> tuple[FusedPair, ...]:
    """Every pair that a runtime with this overlap has a kernel for, in program order of the communication."""
    pairs = []
    for index, op in enumerate(operators):
        if op.collective is None or op.axis is None or not _has_kernels(op, overlap):
            continue
        key = (op.axis, op.collective)
        pairs += _feeding(operators, index, _BEFORE.get(key, ()))
        pairs += _consuming(operators, index, _AFTER.get(key, ()))
    return tuple(pairs)


def _has_kernels(op: Signature, overlap: LayerOverlap) -> bool:
    assert op.axis is not None  # a communication
    fused = overlap.level(op.axis) is OverlapLevel.FUSED
    return fused and (op.resource is Resource.NVLINK or op.axis is Axis.CONTEXT)


def _feeding(operators: tuple[Signature, ...], index: int, products: tuple[type, ...]) -> list[FusedPair]:
    """The product that writes the communication's input, at most through memory-bound operators of its own."""
    chain, reached = [index], set(operators[index].reads)
    for before in range(index - 1, -1, -1):
        op = operators[before]
        if reached.isdisjoint(op.writes):
            continue
        if op.work in products and op.phase is not Pass.WGRAD:
            members = (before, *reversed(chain))
            return [FusedPair(members=members, communication=index, product=before)]
        if op.work is not MemoryWork:
            return []
        chain.append(before)
        reached.update(op.reads)
    return []


def _consuming(operators: tuple[Signature, ...], index: int, products: tuple[type, ...]) -> list[FusedPair]:
    """The first product that reads the communication's output, at most through memory-bound operators."""
    chain, reached = [index], set(operators[index].writes)
    for after in range(index + 1, len(operators)):
        op = operators[after]
        if reached.isdisjoint(op.reads):
            continue
        if op.work in products and op.phase is not Pass.WGRAD:
            members = (index, *_leading_to(operators, chain[1:], after), after)
            return [FusedPair(members=members, communication=index, product=after)]
        if op.work is not MemoryWork:
            continue
        chain.append(after)
        reached.update(op.writes)
    return []


def _leading_to(operators: tuple[Signature, ...], chain: list[int], product: int) -> list[int]:
    """Those of the chain whose output reaches the product."""
    wanted, kept = set(operators[product].reads), []
    for index in reversed(chain):
        if not wanted.isdisjoint(operators[index].writes):
            kept.append(index)
            wanted.update(operators[index].reads)
    return kept[::-1]
