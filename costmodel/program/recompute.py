"""Which tensors are kept for the backward pass, what is run again to regain the others, and what memory that takes.

A recompute policy is a set of tensors to drop. What has to run again follows from the program: the producers of the
dropped tensors, back to tensors that are kept.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec

from meshwright.costmodel.program.operators import GRADIENT, Operator
from meshwright.costmodel.program.program import LayerProgram
from meshwright.costmodel.strategy import Recompute
from meshwright.costmodel.value import Value

INPUT = "hidden"

_GATHERED = ("ln1_out_ag", "ln2_out_ag", "kv_ag", "kv_ring", "q_latent_norm_ag", "kv_latent_norm_ag")
_ACTIVATIONS = ("fc2_in", "shared_fc2_in")
_NORMS = ("ln1_out", "ln2_out", "q_latent_norm", "kv_latent_norm")
_EXCHANGED = ("attn_a2a", "ffn_in")
_DROPPED: dict[Recompute, tuple[str, ...]] = {
    Recompute.NONE: (),
    Recompute.ACTIVATION: _ACTIVATIONS,
    Recompute.NORM_ACTIVATION: _ACTIVATIONS + _NORMS,
    Recompute.CORE_ATTENTION: ("attn", "attn_lse", "attn_a2a"),
    Recompute.SELECTIVE: _ACTIVATIONS + _NORMS + _EXCHANGED,
}
"""Tensors dropped by policy; gathered copies are always dropped and gathered again (Megatron-LM, arXiv 2205.05198,
section 4.2.2). SELECTIVE is the set of MegaScale-MoE's selective activation rematerialization (arXiv 2505.11432,
section 3.3): both norms, the dispatch, the activation, the exchange of the attention output."""


class BackwardPlan(Value, frozen=True, kw_only=True):
    """What one layer keeps and reruns: `kept` tensors, `recomputed` operators, bytes held and bytes in passing.

    `kept_bytes` is held from a micro-batch's forward to its backward; `transient_bytes` is the most that is alive on
    top of it while one layer runs, forward or backward.
    """

    kept: frozenset[str]
    recomputed: tuple[Operator, ...]
    kept_bytes: float
    transient_bytes: float


@lru_cache(maxsize=65536)
def plan_backward(program: LayerProgram, policy: Recompute) -> BackwardPlan:
    """Apply a recompute policy to a program."""
    saved = program.saved()
    kept = _kept(program, policy, saved)
    recomputed = _operators_to_regain(program, saved - kept, kept)
    sizes = program.sizes()
    return BackwardPlan(
        kept=kept,
        recomputed=recomputed,
        kept_bytes=sum(sizes[name] for name in kept),
        transient_bytes=_transient_bytes(program, kept, recomputed, sizes),
    )


def _kept(program: LayerProgram, policy: Recompute, saved: frozenset[str]) -> frozenset[str]:
    if policy is Recompute.FULL:
        return frozenset({INPUT})
    if policy is Recompute.FFN:
        inside = {name for op in program.forward if op.module != "attention" for name in op.writes}
        dropped = inside.union(_GATHERED)
    else:
        dropped = {*_GATHERED, *_DROPPED[policy]}
    return frozenset(name for name in saved if name.removesuffix(".fp8") not in dropped and name not in dropped)


def _operators_to_regain(program: LayerProgram, missing: frozenset[str], kept: frozenset[str]) -> tuple[Operator, ...]:
    wanted = set(missing)
    chosen: list[Operator] = []
    for op in reversed(program.forward):
        if wanted.intersection(op.writes):
            chosen.append(msgspec.structs.replace(op, recomputes=True))
            wanted.update(name for name in op.reads if name not in kept and name != INPUT)
    return tuple(reversed(chosen))


def _transient_bytes(
    program: LayerProgram, kept: frozenset[str], recomputed: tuple[Operator, ...], sizes: dict[str, float]
) -> float:
    forward = _peak(program.forward, kept, sizes)
    backward = _peak((*recomputed, *program.backward), kept, sizes)
    return max(forward, backward)


def _peak(operators: tuple[Operator, ...], kept: frozenset[str], sizes: dict[str, float]) -> float:
    """Most bytes alive at once, kept tensors left out: a tensor lives from its first writer to its last reader."""
    last_use = {name: index for index, op in enumerate(operators) for name in (*op.reads, *op.writes)}
    alive: dict[str, float] = {}
    peak = 0.0
    for index, op in enumerate(operators):
        for name in (*op.reads, *op.writes):
            if name not in kept:
                alive[name] = sizes.get(name.removeprefix(GRADIENT), 0.0)
        peak = max(peak, sum(alive.values()))
        for name in [name for name in alive if last_use[name] == index]:
            del alive[name]
    return peak
