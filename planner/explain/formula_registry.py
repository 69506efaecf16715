"""Which formulas a figure is computed by. What they say stands in the formulas themselves (`formula_text`)."""

from __future__ import annotations

from collections.abc import Iterable

from meshwright.costmodel.formulas import (
    attention,
    collectives,
    expert_load,
    experts,
    matmul,
    memory,
    memory_bound,
    tiled_products,
)
from meshwright.costmodel.hardware import HardwareProfile
from meshwright.costmodel.prepared import prepare
from meshwright.costmodel.program.operators import (
    AttentionWork,
    Collective,
    CollectiveWork,
    CopyWork,
    GemmWork,
    GroupedGemmWork,
    MemoryWork,
    Work,
)
from meshwright.planner.explain.formula_text import Formula, FormulaText, formula_name, formula_text

GEMM: tuple[Formula, ...] = (matmul.gemm_flops, matmul.gemm_bytes, matmul.padded, matmul.sustained_s)
GEMM_BY_TILES: tuple[Formula, ...] = (
    matmul.gemm_flops,
    matmul.gemm_bytes,
    tiled_products.tiled_products_s,
    matmul.sustained_s,
)
GROUPED_GEMM: tuple[Formula, ...] = (
    matmul.grouped_gemm_flops,
    matmul.gemm_flops,
    matmul.grouped_gemm_bytes,
    matmul.padded,
    matmul.sustained_s,
)
GROUPED_BY_TILES: tuple[Formula, ...] = (matmul.grouped_gemm_bytes, matmul.grouped_tiles, matmul.tiled_product_s)
ATTENTION: tuple[Formula, ...] = (
    attention.attention_flops,
    attention.attention_bytes,
    attention.is_causal,
    attention.resembled_length,
    attention.kernel_head_dim,
    attention.last_block_overhang,
    attention.idle_sm_factor,
    matmul.roofline_s,
)
MEMORY_BOUND: tuple[Formula, ...] = (memory_bound.memory_bound_s,)
INSIDE_NODE: tuple[Formula, ...] = (collectives.wire_bytes, collectives.scaled_link_s)
RING: tuple[Formula, ...] = (collectives.wire_bytes, collectives.ring_latency_s, collectives.ring_network_s)

PARAMETERS: tuple[Formula, ...] = (memory.parameter_bytes,)
GRADIENTS: tuple[Formula, ...] = (memory.gradient_bytes,)
OPTIMIZER: tuple[Formula, ...] = (memory.optimizer_bytes,)
UPDATE: tuple[Formula, ...] = (memory.optimizer_traffic_bytes, memory_bound.memory_bound_s)
NORM: tuple[Formula, ...] = (memory.norm_traffic_bytes,)
EXCHANGE: tuple[Formula, ...] = (
    memory.exchange_traffic_bytes,
    memory.exchange_back_traffic_bytes,
    memory_bound.memory_bound_s,
)
ADDED_APART: tuple[Formula, ...] = (matmul.added_gradient_bytes, memory_bound.memory_bound_s)
HOST_UPDATE: tuple[Formula, ...] = (memory.host_update_s,)
HOST_COPY: tuple[Formula, ...] = (memory.host_copy_s,)
MEMORY_LIMIT: tuple[Formula, ...] = (memory.memory_limit_bytes,)
IMBALANCE: tuple[Formula, ...] = (experts.expected_imbalance,)
KNOWN_LOAD: tuple[Formula, ...] = (expert_load.busiest_rows, expert_load.busiest_copies)
DISTINCT_HOLDERS: tuple[Formula, ...] = (experts.expected_distinct_holders,)


def formulas_of(work: Work, profile: HardwareProfile) -> tuple[Formula, ...]:
    """The formulas that turn work into seconds on a GPU; none where nothing is communicated."""
    match work:
        case GemmWork():
            return GEMM if prepare(profile).gemm_model(work.precision).law is None else GEMM_BY_TILES
        case GroupedGemmWork():
            has_law = prepare(profile).grouped_law(work.precision, work.direction) is not None
            return GROUPED_BY_TILES if has_law else GROUPED_GEMM
        case AttentionWork():
            return ATTENTION
        case MemoryWork():
            return MEMORY_BOUND
        case CollectiveWork():
            return _collective(work)
        case CopyWork():
            return HOST_COPY


def _collective(work: CollectiveWork) -> tuple[Formula, ...]:
    group = work.group
    if group.size == 1 or work.num_bytes == 0.0:
        return ()
    if group.num_nodes == 1:
        return INSIDE_NODE
    match work.collective:
        case Collective.SEND_RECV:
            return (collectives.message_s,)
        case Collective.ALL_TO_ALL:
            inside = INSIDE_NODE if group.ranks_per_node > 1 else ()
            return (collectives.all_to_all_network_s, *inside)
        case Collective.ALL_REDUCE:
            return (*RING, collectives.tree_latency_s)
        case _:
            return RING


def names(formulas: Iterable[Formula]) -> tuple[str, ...]:
    """The names by which rows refer to formulas."""
    return tuple(map(formula_name, formulas))


def known_formulas() -> dict[str, FormulaText]:
    """Every formula that a row may refer to, by its name."""
    messages = (collectives.message_s, collectives.all_to_all_network_s, collectives.tree_latency_s)
    groups = (
        *(GEMM, GEMM_BY_TILES, GROUPED_GEMM, GROUPED_BY_TILES, ATTENTION, MEMORY_BOUND, INSIDE_NODE, RING, messages),
        *(PARAMETERS, GRADIENTS, OPTIMIZER, UPDATE, HOST_UPDATE, MEMORY_LIMIT, IMBALANCE, KNOWN_LOAD, DISTINCT_HOLDERS),
        *(NORM, EXCHANGE, ADDED_APART, HOST_COPY),
    )
    return {formula_name(formula): formula_text(formula) for group in groups for formula in group}
