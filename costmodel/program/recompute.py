"""Which tensors are kept for the backward pass, what is run again to regain the others, and what memory that takes.

A recompute policy is a set of tensors to drop. What has to run again follows from the program: the producers of the
dropped tensors, back to tensors that are kept.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec

from meshwright.costmodel.program.operators import BESIDE, GRADIENT, GemmWork, Operator, Pass
from meshwright.costmodel.program.program import LayerProgram
from meshwright.costmodel.strategy import Recompute
from meshwright.costmodel.value import Value

GATHERED = frozenset(
    {
        "ln1_out_ag",
        "ln2_out_ag",
        "shared_ln2_out_ag",
        "q_latent_norm_ag",
        "kv_latent_norm_ag",
        "kv_ag",
        "kv_ring",
        "final_norm_out_ag",
    }
)
"""Copies of other ranks' tokens: never kept, gathered again from what the rank itself keeps (Megatron-LM, arXiv
2205.05198, section 4.2.2)."""

_ACTIVATIONS = ("fc2_in", "shared_fc2_in")
_NORMS = ("ln1_out", "ln2_out", "q_latent_norm", "kv_latent_norm")
_EXCHANGED = ("attn_a2a", "ffn_in")
_DROPPED: dict[Recompute, frozenset[str]] = {
    Recompute.NONE: GATHERED,
    Recompute.ACTIVATION: GATHERED.union(_ACTIVATIONS),
    Recompute.NORM_ACTIVATION: GATHERED.union(_ACTIVATIONS, _NORMS),
    Recompute.CORE_ATTENTION: GATHERED.union(("attn", "attn_lse", "attn_a2a")),
    Recompute.SELECTIVE: GATHERED.union(_ACTIVATIONS, _NORMS, _EXCHANGED),
    Recompute.EVERY_SECOND_GEMM: GATHERED.union(_ACTIVATIONS, _NORMS, ("ln2_in", "fc3_out", "shared_fc3_out")),
}
"""Tensors dropped by policy. EVERY_SECOND_GEMM is torchtitan's per-operator checkpointing: every second of the
q, k, v, output, gate, up and down products runs again, here the output's and the up projection. SELECTIVE is the set of
MegaScale-MoE's selective activation rematerialization (arXiv 2505.11432, section 3.3): both norms, the dispatch, the
activation, the exchange of the attention output."""

ROUTED = "experts"
"""Module of the routed experts and of what brings tokens there and back."""

COPIES = "copies"
"""Module of the copies between GPU and host."""

_ENDS = frozenset({"embedding", "head", "mtp", COPIES})
"""Modules outside of any layer: no policy drops what they write, gathered copies apart."""

_BLOCKS: dict[Recompute, frozenset[str]] = {Recompute.FULL: _ENDS, Recompute.FFN: _ENDS | {"attention"}}
"""Policies that checkpoint a block: the modules that are not in it."""


class BackwardPlan(Value, frozen=True, kw_only=True):
    """What one layer keeps and reruns: `kept` tensors, `recomputed` operators, and the bytes held.

    `kept_bytes` is held from a micro-batch's forward to its backward.
    """

    kept: frozenset[str]
    recomputed: tuple[Operator, ...]
    kept_bytes: float


@lru_cache(maxsize=65536)
def plan_backward(program: LayerProgram, policy: Recompute) -> BackwardPlan:
    """Apply a recompute policy to a program.

    FULL and FFN are checkpointed blocks, as frameworks have them: the whole block runs again (only the residual behind
    it does not), although its last products are not needed. The other policies run again only what is missing.
    """
    block = _block(program, policy)
    wanted = _sources_of_copies(program)
    kept = wanted - _dropped(program, wanted, policy, block)
    recomputed = _operators_to_regain(program, wanted - kept, kept, block)
    sizes = program.sizes()
    return BackwardPlan(
        kept=kept,
        recomputed=recomputed,
        kept_bytes=sum(sizes[name] for name in sorted(kept)),
    )


def _block(program: LayerProgram, policy: Recompute) -> tuple[Operator, ...]:
    """The operators of a checkpointed block."""
    if policy not in _BLOCKS:
        return ()
    outside = _BLOCKS[policy]
    return tuple(op for op in program.forward if op.module not in outside and not op.name.endswith("residual2"))


def _rerun(program: LayerProgram, policy: Recompute) -> tuple[Operator, ...]:
    """Routed experts under torchtitan's policy, which keeps outputs of `mm`, but none of grouped products."""
    if policy is not Recompute.EVERY_SECOND_GEMM:
        return ()
    return tuple(op for op in program.forward if op.module == ROUTED)


def _dropped(
    program: LayerProgram, wanted: frozenset[str], policy: Recompute, block: tuple[Operator, ...]
) -> frozenset[str]:
    plain = _DROPPED.get(policy, GATHERED)
    inside = {name for op in (*block, *_rerun(program, policy)) for name in op.writes}
    return frozenset(name for name in wanted if name in inside or _plain(name) in plain)


def _plain(name: str) -> str:
    """A tensor's name without the prefix of a prediction module and without the suffix of an FP8 copy."""
    base = name.removesuffix(".fp8")
    return base.partition(".")[2] if base.startswith("mtp") else base


def _sources_of_copies(program: LayerProgram) -> frozenset[str]:
    """What backward reads, and behind each gathered copy the tensors it is gathered from, which stand in for it."""
    wanted = set(program.saved())
    for op in reversed(program.forward):
        if any(name in wanted and _plain(name) in GATHERED for name in op.writes):
            wanted.update(op.reads)
    return frozenset(wanted)


def _operators_to_regain(
    program: LayerProgram, missing: frozenset[str], kept: frozenset[str], block: tuple[Operator, ...]
) -> tuple[Operator, ...]:
    wanted, whole = set(missing), {op.name for op in block}
    chosen: list[Operator] = []
    for op in reversed(program.forward):
        if op.name in whole or not wanted.isdisjoint(op.writes):
            chosen.append(_again(op, wanted if not block else frozenset(op.writes)))
            wanted.update(name for name in op.reads if name not in kept)
    return tuple(reversed(chosen))


def _again(op: Operator, wanted: frozenset[str] | set[str]) -> Operator:
    """The operator run again; of a product that writes several tensors only the columns of those that are missing."""
    share = sum(name in wanted for name in op.writes) / max(1, len(op.writes))
    work = op.work
    if isinstance(work, GemmWork) and 0.0 < share < 1.0 and len(op.writes) == 2:
        work = msgspec.structs.replace(work, n=round(work.n * share))
    return msgspec.structs.replace(op, work=work, recomputes=True)


def late_bytes(program: LayerProgram, plan: BackwardPlan) -> float:
    """Bytes more than what is kept that a micro-batch holds between its input gradient and its weight gradient.

    Weight gradients read inputs and gradients of products, whether inputs were kept or run again. What they do not read
    is free by then; it counts as held nevertheless where that is more.
    """
    read = {name for op in program.backward if op.phase is Pass.WGRAD for name in op.reads}
    sizes = program.sizes()
    return max(0.0, sum(_size(name, sizes) for name in sorted(read)) - plan.kept_bytes)


def transient_bytes(program: LayerProgram, plan: BackwardPlan, launched: tuple[Operator, ...]) -> float:
    """The most that is alive on top of what is kept while the operators of a pass run in this order."""
    kept = plan.kept.union(BESIDE + name for name in plan.kept)
    return _peak_bytes(launched, kept, program.sizes())


def _peak_bytes(operators: tuple[Operator, ...], kept: frozenset[str], sizes: dict[str, float]) -> float:
    """Most bytes alive at once, kept tensors left out: a tensor lives from its first use to its last."""
    used = [[name for name in dict.fromkeys((*op.reads, *op.writes)) if name not in kept] for op in operators]
    last_use = {name: index for index, names in enumerate(used) for name in names}
    alive: dict[str, float] = {}
    alive_bytes = peak = 0.0
    for index, names in enumerate(used):
        for name in names:
            if name not in alive:
                alive[name] = _size(name, sizes)
                alive_bytes += alive[name]
        peak = max(peak, alive_bytes)
        for name in names:
            if last_use[name] == index:
                alive_bytes -= alive[name]
    return peak


def _size(name: str, sizes: dict[str, float]) -> float:
    """Bytes of a tensor, of the tensor that a gradient belongs to, or of another micro-batch's of that name."""
    base = name.removeprefix(GRADIENT)
    return sizes.get(base) or sizes.get(base.removeprefix(BESIDE), 0.0)
