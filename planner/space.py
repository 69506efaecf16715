"""The outer points of the search: meshes, micro-batch, schedule and sharding; and the rules that bound the space.

What one layer does at a point (how attention splits, dispatch, recomputation) is the catalogue's; how layers are
spread over stages is the inner solver's.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise

from meshwright.costmodel.data_parallel import Sharding
from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.hardware import ClusterSpec
from meshwright.costmodel.model import ModelSpec, MoeFfnSpec
from meshwright.costmodel.order_memory import RESERVE
from meshwright.costmodel.simulate import ScheduleKind, check_combination
from meshwright.costmodel.strategy import AxisOrder, Mesh, ZeroStage
from meshwright.costmodel.value import Value
from meshwright.costmodel.workload import Workload
from meshwright.planner.fixes import AttentionChoice, FfnChoice, Fixes, OffloadChoice

MAX_MICRO_BATCH = 16
MAX_MICRO_BATCH_TOKENS = 32_768
MIN_CONTEXT_SHARD_TOKENS = 8_192
MIN_EXPERT_SLICE = 1_024
MAX_VIRTUAL_STAGES = 12
LARGE_STATE_FRACTION = 0.5
LARGE_END_FRACTION = 1 / 256

RULES = (
    "tp x sp stays inside a node; all of it tp or all of it sp (a mix only where pinned)",
    "dense and shared FFN weights split over tp or over tp x sp",
    "embedding and head split as the first layer's fastest strategy is, or another way where only that fits or their"
    f" state takes less by over 1/{1 / LARGE_END_FRACTION:g} of the memory limit",
    "activations in FP8 on the wire only where training is in FP8, or where pinned",
    f"cp leaves a rank at least {MIN_CONTEXT_SHARD_TOKENS:,} tokens of a sequence",
    f"sliced experts (etp) have ep x etp inside a node, and slices of at least {MIN_EXPERT_SLICE:,} columns",
    f"micro-batches are powers of two up to {MAX_MICRO_BATCH} sequences and {MAX_MICRO_BATCH_TOKENS:,} tokens a GPU",
    "schedules with several virtual stages a device split the layers evenly, embedding and head counting as a layer"
    " each where the layers alone do not divide; interleaved then only where no other number of virtual stages divides",
    f"at most {MAX_VIRTUAL_STAGES} virtual stages a device",
    "with fewer micro-batches than pipeline stages only 1f1b",
    "schedules 1f1b, interleaved, zb-v and dualpipe-v (zb-h1 and gpipe only where pinned)",
    "ZeRO-1 over all data-parallel ranks; with one pipeline stage also ZeRO-2 and 3; the optimizer state on the GPUs"
    " or, where model state would take more than half of their memory, in half of the host memory, updated by the CPUs",
    "dispatch by all-to-all sends a token once to each rank (over nodes by way of one copy for each) or, where its"
    " ranks span nodes, once to each expert",
    "offload of the FFN's widest tensors beside keeping or SAR, within a quarter of the host memory, and under"
    " dualpipe-v only where pinned",
    "recomputation by named sets of tensors (every-second-gemm only where pinned)",
    "transient memory is rounded up to 1/256 of the memory limit",
    "operators of a layer run in the order that list scheduling finds, within"
    f" {RESERVE:g} times the passing memory of program order, collectives inside a node on the SMs that the library"
    " takes",
)
"""What bounds the space; a pinned choice overrides the rule on it."""


class Problem(Value, frozen=True, kw_only=True):
    """What is planned."""

    model: ModelSpec
    cluster: ClusterSpec
    workload: Workload
    fixes: Fixes = Fixes()


class LayerShape(Value, frozen=True, kw_only=True):
    """The part of an outer point that decides what a layer costs.

    `group` ranks (tp x sp) and cp share a micro-batch; experts live on ep x etp ranks.
    """

    group: int
    cp: int
    ep: int
    etp: int
    micro_batch: int


class OuterPoint(Value, frozen=True, kw_only=True):
    """One point: shape, pipeline, data parallelism, sharding. `mesh` counts the group as tp until layers choose."""

    shape: LayerShape
    mesh: Mesh
    schedule: ScheduleKind
    virtual_stages: int
    sharding: Sharding
    num_micro_batches: int


@lru_cache(maxsize=4096)
def even_split(problem: Problem, pp: int, virtual_stages: int) -> tuple[int, ...]:
    """First layers of the virtual stages in the even split, and the number of layers.

    Every stage holds the same number of layers where that divides; else embedding and head count as a layer each, and
    boundaries are rounded. Empty where a stage between the ends would hold no layer.

    >>> from meshwright.costmodel.presets import load_model
    >>> from meshwright.hardware_profiles import load_cluster
    >>> problem = Problem(
    ...     model=load_model("deepseek-v3"),
    ...     cluster=load_cluster("h800", num_gpus=2048),
    ...     workload=Workload(global_batch=1, seq_len=1),
    ... )
    >>> even_split(problem, 4, 2)
    (0, 7, 15, 23, 31, 38, 46, 54, 61)
    """
    stages, layers = pp * virtual_stages, problem.model.num_layers
    if layers % stages == 0:
        return tuple(range(0, layers + 1, layers // stages))
    inner = [round(stage * (layers + 2) / stages) - 1 for stage in range(1, stages)]
    boundaries = (0, *inner, layers)
    return boundaries if all(start < end for start, end in pairwise(inner)) else ()


@lru_cache(maxsize=4096)
def divisors(number: int) -> tuple[int, ...]:
    """All divisors in ascending order.

    >>> divisors(12)
    (1, 2, 3, 4, 6, 12)
    """
    small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return tuple(sorted({*small, *(number // d for d in small)}))


def layer_shapes(problem: Problem) -> Iterator[LayerShape]:
    """Every shape of the space, largest groups last."""
    for group in _groups(problem):
        for cp in _context_degrees(problem, group):
            for ep, etp in _expert_degrees(problem):
                for micro_batch in _micro_batches(problem, group * cp):
                    yield LayerShape(group=group, cp=cp, ep=ep, etp=etp, micro_batch=micro_batch)


def _groups(problem: Problem) -> Iterator[int]:
    fixes, cluster = problem.fixes, problem.cluster
    heads = {layer.attention.num_heads for layer in problem.model.layer_types}
    largest = max(cluster.gpus_per_node, (fixes.tp or 1) * (fixes.sp or 1))
    for group in divisors(cluster.num_gpus):
        if group > largest or group % ((fixes.tp or 1) * (fixes.sp or 1)):
            continue
        if fixes.tp and fixes.sp and group != fixes.tp * fixes.sp:
            continue
        if fixes.attention is AttentionChoice.DATA and group > 1:
            continue
        if all(count % group == 0 for count in heads) and problem.workload.seq_len % group == 0:
            yield group


def _context_degrees(problem: Problem, group: int) -> Iterator[int]:
    fixes, workload = problem.fixes, problem.workload
    ring = fixes.attention in (AttentionChoice.RING, AttentionChoice.ALL_GATHER)
    for cp in divisors(problem.cluster.num_gpus // group):
        if not fixes.allows(cp=cp) or workload.seq_len % (2 * cp * group if cp > 1 else group):
            continue
        if cp > 1 and not fixes.cp and not ring and workload.seq_len // cp < MIN_CONTEXT_SHARD_TOKENS:
            continue
        if (ring and cp == 1) or (fixes.attention is AttentionChoice.DATA and cp > 1):
            continue
        yield cp


def _expert_degrees(problem: Problem) -> Iterator[tuple[int, int]]:
    fixes, node = problem.fixes, problem.cluster.gpus_per_node
    moes = [layer.ffn for layer in problem.model.layer_types if isinstance(layer.ffn, MoeFfnSpec)]
    if not moes:
        if fixes.allows(ep=1, etp=1):
            yield 1, 1
        return
    for ep in divisors(moes[0].num_experts):
        if not fixes.allows(ep=ep) or any(moe.num_experts % ep for moe in moes):
            continue
        if (fixes.ffn is FfnChoice.EXPERT and ep == 1) or (fixes.ffn is FfnChoice.TENSOR and ep > 1):
            continue
        for etp in (fixes.etp,) if fixes.etp else divisors(node):
            outside = etp > 1 and ep * etp > node and not fixes.etp
            if fixes.allows(etp=etp) and not outside and all(_slices(moe, etp, fixes) for moe in moes):
                yield ep, etp


def _slices(moe: MoeFfnSpec, etp: int, fixes: Fixes) -> bool:
    if moe.intermediate % etp:
        return False
    return etp == 1 or fixes.etp is not None or moe.intermediate // etp >= MIN_EXPERT_SLICE


def _micro_batches(problem: Problem, replica: int) -> Iterator[int]:
    fixes, workload = problem.fixes, problem.workload
    if fixes.mbs:
        yield fixes.mbs
        return
    size = 1
    while size <= MAX_MICRO_BATCH and (size == 1 or size * workload.seq_len // replica <= MAX_MICRO_BATCH_TOKENS):
        yield size
        size *= 2


def meshes(problem: Problem, shape: LayerShape) -> Iterator[tuple[Mesh, int]]:
    """Every mesh with this shape, and the number of micro-batches of a replica."""
    fixes, cluster, workload = problem.fixes, problem.cluster, problem.workload
    replica = shape.group * shape.cp
    for pp in divisors(cluster.num_gpus // replica):
        dp = cluster.num_gpus // (replica * pp)
        if pp > problem.model.num_layers or not fixes.allows(pp=pp, dp=dp):
            continue
        if workload.global_batch % (dp * shape.micro_batch) or (dp * replica) % (shape.ep * shape.etp):
            continue
        num_micro_batches = workload.global_batch // (dp * shape.micro_batch)
        mesh = Mesh(pp=pp, dp=dp, tp=shape.group, cp=shape.cp, ep=shape.ep, etp=shape.etp)
        yield mesh, num_micro_batches


def orders(problem: Problem, mesh: Mesh) -> tuple[AxisOrder, ...]:
    """Rank orders worth telling apart: neighbours along pp can share a node only if replicas are smaller than one."""
    inside = mesh.replica_gpus < problem.cluster.gpus_per_node and mesh.pp > 1 and mesh.dp > 1
    if inside and mesh.ep * mesh.etp <= mesh.replica_gpus:
        return AxisOrder.PP_OUTERMOST, AxisOrder.DP_OUTERMOST
    return (AxisOrder.PP_OUTERMOST,)


def shardings(problem: Problem, mesh: Mesh) -> tuple[Sharding, ...]:
    """ZeRO stages of the space. With a pipeline, ZeRO-2 and 3 repeat their collectives for every micro-batch."""
    stages: tuple[ZeroStage, ...] = (ZeroStage.OPTIMIZER, ZeroStage.GRADIENTS, ZeroStage.PARAMETERS)
    if problem.fixes.zero:
        stages = (problem.fixes.zero,)
    elif mesh.pp > 1:
        stages = stages[:1]
    pinned = problem.fixes.offload
    offloads = (False, True) if pinned is None else (pinned is OffloadChoice.OPTIMIZER,)
    return tuple(Sharding(zero=stage, offload_optimizer=offload) for stage in stages for offload in offloads)


def pipelines(problem: Problem, mesh: Mesh, num_micro_batches: int) -> Iterator[tuple[ScheduleKind, int]]:
    """Schedules and virtual stages that are legal on this mesh."""
    fixes = problem.fixes
    kinds = (fixes.schedule,) if fixes.schedule else _KINDS
    for kind in kinds:
        for virtual_stages in _virtual_stages(problem, kind, mesh.pp):
            fills = num_micro_batches >= mesh.pp or kind is ScheduleKind.ONE_F_ONE_B or fixes.schedule is not None
            if fixes.allows(vp=virtual_stages) and fills and _legal(kind, mesh.pp, num_micro_batches, virtual_stages):
                yield kind, virtual_stages


_KINDS = (
    ScheduleKind.ONE_F_ONE_B,
    ScheduleKind.INTERLEAVED,
    ScheduleKind.ZB_V,
    ScheduleKind.DUALPIPE_V,
)


def _virtual_stages(problem: Problem, kind: ScheduleKind, pp: int) -> Iterator[int]:
    if pp == 1:
        if kind in (ScheduleKind.ONE_F_ONE_B, problem.fixes.schedule):
            yield 1
        return
    if kind in (ScheduleKind.ZB_V, ScheduleKind.DUALPIPE_V):
        if even_split(problem, pp, 2):
            yield 2
    elif kind is ScheduleKind.INTERLEAVED:
        yield from _interleaved_stages(problem, pp)
    else:
        yield 1


def _interleaved_stages(problem: Problem, pp: int) -> Iterator[int]:
    possible = [v for v in range(2, MAX_VIRTUAL_STAGES + 1) if even_split(problem, pp, v)]
    layers = problem.model.num_layers
    dividing = [v for v in possible if layers % (pp * v) == 0 or (layers + 2) % (pp * v) == 0]
    yield from possible if problem.fixes.vp else dividing or possible


@lru_cache(maxsize=65536)
def _legal(kind: ScheduleKind, num_stages: int, num_micro_batches: int, virtual_stages: int) -> bool:
    try:
        check_combination(kind, num_stages, num_micro_batches, virtual_stages)
    except StrategyError:
        return False
    return True
