"""From an operator to its binding."""

from __future__ import annotations

from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.program.operators import (
    AttentionWork,
    Axis,
    Collective,
    CollectiveWork,
    CopyWork,
    GemmWork,
    GroupedGemmWork,
    MemoryKernel,
    MemoryWork,
    Operator,
    Pass,
)
from meshwright.costmodel.strategy import Dispatch
from meshwright.executor.layer.bindings import (
    activation,
    copy_exchange,
    cross_entropy,
    embedding,
    gather_exchange,
    host_copy,
    local_exchange,
    norms,
    region,
    residual,
    rope,
    router,
    row_exchange,
    wire,
)
from meshwright.executor.layer.bindings.attention import attention, attention_backward
from meshwright.executor.layer.bindings.context_attention import context_attention, context_attention_backward
from meshwright.executor.layer.bindings.context_exchange import CONTEXT_EXCHANGES
from meshwright.executor.layer.bindings.experts import grouped_binding
from meshwright.executor.layer.bindings.linear import dense_binding
from meshwright.executor.layer.bindings.sequence import SEQUENCE_EXCHANGES
from meshwright.executor.layer.context import LayerContext
from meshwright.executor.layer.scope import Binding

GATHERED: dict[str, Binding] = {
    "dispatch": gather_exchange.gather_tokens,
    "permute": gather_exchange.pick_rows,
    "unpermute": gather_exchange.sum_rows,
    "combine": gather_exchange.scatter_outputs,
    "combine.backward": gather_exchange.gather_tokens,
    "unpermute.backward": gather_exchange.pick_gradients,
    "permute.backward": gather_exchange.sum_gradients,
    "dispatch.backward": gather_exchange.scatter_gradients,
}
SENT: dict[str, Binding] = {
    "permute": local_exchange.permute,
    "dispatch": row_exchange.send_rows,
    "dispatch.etp": row_exchange.gather_rows,
    "sort": row_exchange.sort_rows,
    "unsort": row_exchange.unsort_rows,
    "combine.etp": row_exchange.scatter_rows,
    "combine": row_exchange.return_rows,
    "unpermute": local_exchange.unpermute,
    "unpermute.backward": local_exchange.unpermute_backward,
    "combine.backward": row_exchange.send_rows,
    "combine.backward.etp": row_exchange.gather_rows,
    "unsort.backward": row_exchange.sort_rows,
    "sort.backward": row_exchange.unsort_rows,
    "dispatch.backward.etp": row_exchange.scatter_rows,
    "dispatch.backward": row_exchange.return_rows,
    "permute.backward": local_exchange.permute_backward,
}
COPIED: dict[str, Binding] = {
    "permute": copy_exchange.copy_tokens,
    **dict.fromkeys(("dispatch", "dispatch.network", "dispatch.nvlink"), copy_exchange.send_copies),
    **dict.fromkeys(("dispatch.etp", "combine.backward.etp"), row_exchange.gather_rows),
    **dict.fromkeys(("combine.etp", "dispatch.backward.etp"), row_exchange.scatter_rows),
    "sort": copy_exchange.expand,
    "unsort": copy_exchange.sum_rows,
    **dict.fromkeys(("combine", "combine.nvlink", "combine.network"), copy_exchange.return_copies),
    "unpermute": copy_exchange.sum_copies,
    "unpermute.backward": copy_exchange.copy_tokens,
    **dict.fromkeys(
        ("combine.backward", "combine.backward.network", "combine.backward.nvlink"), copy_exchange.send_copies
    ),
    "unsort.backward": copy_exchange.expand_gradients,
    "sort.backward": copy_exchange.sum_row_gradients,
    **dict.fromkeys(
        ("dispatch.backward", "dispatch.backward.nvlink", "dispatch.backward.network"), copy_exchange.return_copies
    ),
    "permute.backward": copy_exchange.sum_gradients,
}
EXCHANGES = {Dispatch.ALL_GATHER: GATHERED, Dispatch.ALL_TO_ALL: SENT, Dispatch.ALL_TO_ALL_DEDUP: COPIED}
MEMORY_BOUND: dict[MemoryKernel, tuple[Binding, Binding]] = {
    MemoryKernel.ROPE: (rope.rope, rope.rope_backward),
    MemoryKernel.RESIDUAL: (residual.add_all, residual.add_all),
    MemoryKernel.ROUTER: (router.top_k, router.top_k_backward),
    MemoryKernel.CROSS_ENTROPY: (cross_entropy.statistics, cross_entropy.statistics_backward),
}
ATTENTION: dict[bool, tuple[Binding, Binding]] = {
    False: (attention, attention_backward),
    True: (context_attention, context_attention_backward),
}
"""Forward and backward, by whether keys are spread over context-parallel ranks."""

NAMED: dict[str, Binding] = {
    "qk_norm": norms.head_norms,
    "qk_norm.backward": norms.head_norms_backward,
    "shared_gate.scale": activation.scale_shared,
    "shared_gate.scale.backward": activation.scale_shared_backward,
    "embedding": embedding.look_up,
    "embedding.wgrad": embedding.look_up_wgrad,
    "cast.logits": cross_entropy.cast_logits,
    "all_reduce.loss_statistics": cross_entropy.join_statistics,
}
"""Operators whose kernel or collective has another binding under most other names."""

BACKWARD = ".backward"


def binding_of(operator: Operator, layer: LayerContext) -> Binding:
    """What runs an operator of a layer; raises `StrategyError` for one that nothing runs yet."""
    if operator.name in NAMED:
        return NAMED[operator.name]
    match operator.work:
        case GemmWork():
            return dense_binding(operator)
        case GroupedGemmWork():
            return grouped_binding(operator)
        case AttentionWork():
            return ATTENTION[layer.groups.context.size > 1][operator.work.backward]
        case CollectiveWork():
            return _collective(operator, layer)
        case CopyWork():
            return host_copy.offload if operator.phase is Pass.FORWARD else host_copy.reload
        case MemoryWork():
            return _memory_bound(operator, operator.work.kernel, layer)


def _unknown(operator: Operator) -> StrategyError:
    return StrategyError("layer", operator.name, "the executor does not run this operator yet")


def _collective(operator: Operator, layer: LayerContext) -> Binding:
    if operator.axis is Axis.TENSOR:
        return region.exchange
    if operator.axis is Axis.SEQUENCE:
        return SEQUENCE_EXCHANGES[operator.name]
    if operator.axis is Axis.CONTEXT:
        return CONTEXT_EXCHANGES[operator.name]
    if operator.axis is Axis.EXPERT:
        return _exchange(operator, layer)
    raise _unknown(operator)


def _exchange(operator: Operator, layer: LayerContext) -> Binding:
    strategy = layer.setting.strategy
    work = operator.work
    exchanges = isinstance(work, CollectiveWork) and work.collective is Collective.ALL_TO_ALL
    if exchanges and strategy.dispatch is Dispatch.ALL_GATHER:  # of parts in FP8, which are then summed
        return gather_exchange.scatter_parts
    deduplicates = strategy.dispatch is Dispatch.ALL_TO_ALL_DEDUP
    sends_rows = strategy.ep == 1 and (deduplicates or strategy.etp == 1)  # to one rank: nothing to deduplicate
    bindings = SENT if sends_rows else EXCHANGES[strategy.dispatch]
    binding = bindings.get(operator.name)
    if binding is None:
        raise _unknown(operator)
    return binding


def _memory_bound(operator: Operator, kernel: MemoryKernel, layer: LayerContext) -> Binding:
    backward = operator.name.endswith(BACKWARD)
    if kernel is MemoryKernel.NORM:
        return norms.norm_backward if backward else norms.norm
    if kernel is MemoryKernel.ACTIVATION:
        return activation.activation_backward if backward else activation.activation
    if kernel is MemoryKernel.CAST and operator.name.endswith(wire.QUANTIZE):
        return wire.quantize
    if kernel is MemoryKernel.CAST and operator.name.endswith(wire.DEQUANTIZE):
        return wire.dequantize
    if kernel in (MemoryKernel.PERMUTE, MemoryKernel.UNPERMUTE):
        return _exchange(operator, layer)
    if kernel not in MEMORY_BOUND:
        raise _unknown(operator)
    return MEMORY_BOUND[kernel][backward]
