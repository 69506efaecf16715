"""Attention of context-parallel ranks: a rank's queries against the keys of one rank after the other.

The own keys come first, then those of the rank before, of the one before that, and so on. By ring they arrive in this
order: while one block is worked on, it is sent on and the next one arrives. Backward, each block's gradients follow it
round the ring and grow; the last hop, home, is an operator of its own. Source: TransformerEngine's ring.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from meshwright.costmodel.program.operators import GRADIENT, Operator
from meshwright.executor.layer.bindings.attention import STATE
from meshwright.executor.layer.bindings.attention_passes import PASSES
from meshwright.executor.layer.bindings.context_exchange import GATHERED, HOP, RING
from meshwright.executor.layer.bindings.heads import attended, by_head, by_token, unpacked, written_gradients
from meshwright.executor.layer.functions.attention_kernels import KernelState
from meshwright.executor.layer.functions.attention_pieces import Piece, RunningSoftmax, piece_of
from meshwright.executor.layer.functions.statistics import statistics_type
from meshwright.executor.layer.hops import Hop, start_hop
from meshwright.executor.layer.scope import Scope


@dataclass(frozen=True, slots=True, kw_only=True)
class States:
    """What the forward of each piece leaves for its backward."""

    pieces: tuple[KernelState, ...]


def context_attention(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Causal attention of every head over the keys of all ranks; the output is (T, N D)."""
    layer, own = scope.layer, attended(operator, scope)
    forward, query = PASSES[layer.attention_kernel].forward, own[0]
    running, states = RunningSoftmax(query, layer.shape.value_head_dim), []
    for piece, key, value in _blocks(operator, scope, own):
        queries = piece.of_queries(query)
        out, sums, state = forward(queries, piece.of_keys(key), piece.of_keys(value), layer.score_scale, piece.mask)
        running.add(piece, out, sums)
        states.append(state)
    scope.values.ride("attn_lse", STATE, States(pieces=tuple(states)))
    return {"attn": by_token(running.out.to(query.dtype)).flatten(1), "attn_lse": running.sums}


def context_attention_backward(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Gradients of queries, of the own keys and values, and of those of other ranks, which must still go home."""
    layer, values, own = scope.layer, scope.values, attended(operator, scope)
    query, heads = own[0], own[0].shape[1]
    out = by_head(values["attn"].unflatten(1, (heads, -1)), scope)
    grad = by_head(values[f"{GRADIENT}attn"].unflatten(1, (heads, -1)), scope)
    sums, states = values["attn_lse"], values.rider("attn_lse", STATE, States).pieces
    backward = PASSES[layer.attention_kernel].backward
    grad_query = torch.zeros(query.shape, dtype=statistics_type(query.dtype), device=query.device)
    on_their_way = _gradients(operator, scope)
    own_gradients: list[Tensor] = []
    for state, (piece, key, value) in zip(states, _blocks(operator, scope, own), strict=True):
        operands = (piece.of_queries(query), piece.of_keys(key), piece.of_keys(value))
        results = (piece.of_queries(out), piece.of_queries(sums).contiguous(), state)
        part, *others = backward(piece.of_queries(grad), *operands, *results, layer.score_scale, piece.mask)
        piece.of_queries(grad_query).add_(part)
        if own_gradients:
            on_their_way.add(others)
        else:
            own_gradients = others
    gradients = [by_token(x) for x in (grad_query.to(query.dtype), *own_gradients)]
    return {**written_gradients(operator, gradients), **on_their_way.written()}


def _blocks(
    operator: Operator, scope: Scope, own: tuple[Tensor, Tensor, Tensor]
) -> Iterator[tuple[Piece, Tensor, Tensor]]:
    """Keys and values of each rank, the own first, with the piece that they are of this rank's attention."""
    ranks = scope.layer.groups.context
    query, key, value = own
    length = query.shape[2]
    yield piece_of(ranks.rank, ranks.rank, length), key, value
    others = _gathered(scope) if GATHERED in operator.reads else _arriving(scope)
    for step, block in enumerate(others, 1):
        other = (ranks.rank - step) % ranks.size
        yield piece_of(ranks.rank, other, length), *unpacked(block, scope)


def _gathered(scope: Scope) -> Iterator[Tensor]:
    ranks = scope.layer.groups.context
    blocks = scope.values[GATHERED].chunk(ranks.size)
    return (blocks[(ranks.rank - step) % ranks.size] for step in range(1, ranks.size))


def _arriving(scope: Scope) -> Iterator[Tensor]:
    """The blocks round the ring. Where attention has run again before its backward, the first is there already."""
    ranks, hop = scope.layer.groups.context, scope.values.take_rider(RING, HOP, Hop)
    block = scope.values[RING] if hop is None else hop.wait()
    for _ in range(ranks.size - 2):
        hop = start_hop(block, ranks)
        yield block
        block = hop.wait()
    yield block


class _GatheredGradients:
    """Gradients of all ranks' keys and values, to be summed and scattered; those of the own are left out."""

    def __init__(self, scope: Scope) -> None:
        self._ranks = scope.layer.groups.context
        self._grad = torch.zeros_like(scope.values[GATHERED])
        self._step = 0

    def add(self, grads: list[Tensor]) -> None:
        """Take the gradients of the next block."""
        self._step += 1
        block = self._grad.chunk(self._ranks.size)[(self._ranks.rank - self._step) % self._ranks.size]
        _pack(block, grads)

    def written(self) -> dict[str, Tensor]:
        """What the reduce-scatter takes."""
        return {f"{GRADIENT}{GATHERED}": self._grad}


class _RingGradients:
    """Gradients that follow their blocks: what the rank before has found arrives, grows and goes on."""

    def __init__(self, scope: Scope) -> None:
        self._ranks = scope.layer.groups.context
        self._like = scope.values[RING]
        self._hop: Hop | None = None
        self._grad = self._like
        self._step = 0

    def add(self, grads: list[Tensor]) -> None:
        """Take the gradients of the next block, and send them on unless it is the last."""
        self._step += 1
        self._grad = torch.zeros_like(self._like)
        _pack(self._grad, grads)
        if self._hop is not None:
            self._grad += self._hop.wait()
        if self._step < self._ranks.size - 1:
            self._hop = start_hop(self._grad, self._ranks)

    def written(self) -> dict[str, Tensor]:
        """What the last hop takes: the gradients of the next rank's block."""
        return {f"{GRADIENT}{RING}": self._grad}


def _gradients(operator: Operator, scope: Scope) -> _GatheredGradients | _RingGradients:
    return _GatheredGradients(scope) if GATHERED in operator.reads else _RingGradients(scope)


def _pack(target_TW: Tensor, grads_BNSD: list[Tensor]) -> None:
    """Write gradients of keys and values side by side; what lies behind the keys that were seen stays as it is."""
    packed = torch.cat([by_token(grad).flatten(1) for grad in grads_BNSD], 1)
    target_TW[: packed.shape[0]] = packed
