"""Ulysses exchanges: from all heads of a part of the sequence to some heads of all of it, and back.

Source: DeepSpeed-Ulysses (arXiv 2309.14509). Tokens are sequence-major, so the parts of the ranks, one behind the
other, are the sequence. With fewer key heads than ranks several ranks receive the same one.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from meshwright.costmodel.program.operators import Operator
from meshwright.executor.layer.collectives import all_to_all_parts
from meshwright.executor.layer.context import LayerContext
from meshwright.executor.layer.groups import Communicator
from meshwright.executor.layer.parameters import Block
from meshwright.executor.layer.scope import Scope


def projections_to_heads(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Queries, keys and values of this rank's heads, (T, W), side by side."""
    ranks = scope.layer.groups.sequence
    tensors = [x.flatten(1) for x in scope.reads(operator)]
    columns = _columns(scope.layer)
    sent = torch.stack([torch.cat([x[:, part] for x, part in zip(tensors, to, strict=True)], 1) for to in columns])
    return {operator.writes[0]: all_to_all_parts(sent, ranks).flatten(0, 1)}


def head_gradients_to_projections(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Gradients of this rank's tokens, of all heads; copies of a key head are summed."""
    ranks, grad = scope.layer.groups.sequence, scope.values[operator.reads[0]]
    arrived = all_to_all_parts(grad.unflatten(0, (ranks.size, -1)), ranks)
    shape = scope.layer.shape
    widths = (shape.query_width, shape.key_width, shape.value_width)
    grads = [grad.new_zeros(arrived.shape[1], width) for width in widths]
    for source, parts in enumerate(_columns(scope.layer)):
        pieces = arrived[source].split([part.stop - part.start for part in parts], 1)
        for total, part, piece in zip(grads, parts, pieces, strict=True):
            total[:, part] += piece
    if scope.layer.layer.attention.is_mla:
        grads[2] = grads[2].unflatten(1, (-1, shape.value_head_dim))
    return dict(zip(operator.writes, grads, strict=True))


def outputs_to_tokens(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Attention outputs of all heads for this rank's tokens, (T, N D)."""
    ranks = scope.layer.groups.sequence
    arrived = all_to_all_parts(scope.values[operator.reads[0]].unflatten(0, (ranks.size, -1)), ranks)
    return {operator.writes[0]: arrived.transpose(0, 1).flatten(1)}


def output_gradients_to_heads(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Gradients of the outputs of this rank's heads, for all tokens."""
    ranks = scope.layer.groups.sequence
    grad = scope.values[operator.reads[0]].unflatten(1, (ranks.size, -1)).transpose(0, 1)
    return {operator.writes[0]: all_to_all_parts(grad, ranks).flatten(0, 1)}


def _columns(layer: LayerContext) -> list[tuple[slice, slice, slice]]:
    """For every rank, the columns of its heads among the queries, keys and values of a tensor-parallel rank."""
    shape, size = layer.shape, layer.groups.sequence.size
    blocks = (
        Block(count=shape.projected_heads, size=shape.head_dim),
        Block(count=shape.projected_kv_heads, size=shape.head_dim),
        Block(count=shape.projected_kv_heads, size=shape.value_head_dim),
    )
    for block in blocks:
        block.check("sp", size)
    ranks = [Communicator(size=size, rank=rank) for rank in range(size)]
    return [(blocks[0].rows(to), blocks[1].rows(to), blocks[2].rows(to)) for to in ranks]


SEQUENCE_EXCHANGES = {
    "all_to_all.qkv": projections_to_heads,
    "all_to_all.grad_qkv": head_gradients_to_projections,
    "all_to_all.attn": outputs_to_tokens,
    "all_to_all.grad_attn": output_gradients_to_heads,
}
