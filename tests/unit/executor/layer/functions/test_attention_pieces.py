"""What context-parallel ranks put together from pieces is attention over the whole sequence."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from meshwright.executor.layer.bindings.attention_passes import PASSES
from meshwright.executor.layer.context import AttentionKernel
from meshwright.executor.layer.functions import attention_formula
from meshwright.executor.layer.functions.attention_pieces import RunningSoftmax, piece_of
from meshwright.executor.layer.groups import Communicator, LayerGroups
from meshwright.executor.layer.position import own_positions

SCALE, LENGTH, NUM_RANKS = 0.3, 192, 3
CPU = torch.device("cpu")


def _operands(device: str, dtype: torch.dtype, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)

    def random(num_heads: int) -> Tensor:
        return torch.randn((2, num_heads, LENGTH, width), generator=generator).to(device, dtype)

    return random(4), random(2), random(2), random(4)


def _places(rank: int, device: str) -> Tensor:
    groups = LayerGroups(context=Communicator(size=NUM_RANKS, rank=rank))
    return own_positions(LENGTH, groups, torch.device(device))


def _by_pieces(
    kernel: AttentionKernel, query: Tensor, key: Tensor, value: Tensor, grad: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Output and gradients of the whole sequence, from every rank's pieces."""
    passes, places = PASSES[kernel], [_places(rank, query.device.type) for rank in range(NUM_RANKS)]
    whole = torch.zeros_like(query)
    grads = [torch.zeros(x.shape, dtype=torch.float64, device=x.device) for x in (query, key, value)]
    for own in range(NUM_RANKS):
        queries, upstream = query[:, :, places[own]], grad[:, :, places[own]]
        running, states = RunningSoftmax(queries, value.shape[-1]), []
        others = [(own - step) % NUM_RANKS for step in range(NUM_RANKS)]
        for other in others:
            piece = piece_of(own, other, LENGTH // NUM_RANKS)
            keys, values = piece.of_keys(key[:, :, places[other]]), piece.of_keys(value[:, :, places[other]])
            out, sums, state = passes.forward(piece.of_queries(queries), keys, values, SCALE, piece.mask)
            running.add(piece, out, sums)
            states.append(state)
        out = running.out.to(query.dtype)
        whole[:, :, places[own]] = out
        for other, state in zip(others, states, strict=True):
            piece = piece_of(own, other, LENGTH // NUM_RANKS)
            keys, values = piece.of_keys(key[:, :, places[other]]), piece.of_keys(value[:, :, places[other]])
            parts = passes.backward(
                piece.of_queries(upstream),
                piece.of_queries(queries),
                keys,
                values,
                piece.of_queries(out),
                piece.of_queries(running.sums).contiguous(),
                state,
                SCALE,
                piece.mask,
            )
            at_queries = piece.of_queries(places[own].view(1, 1, -1)).flatten()
            at_keys = piece.of_keys(places[other].view(1, 1, -1)).flatten()
            for total, part, at in zip(grads, parts, (at_queries, at_keys, at_keys), strict=True):
                total.index_add_(2, at, part.double())
    return whole, grads


def _errors(kernel: AttentionKernel, device: str, dtype: torch.dtype, width: int) -> list[float]:
    query, key, value, grad = _operands(device, dtype, width)
    out, grads = _by_pieces(kernel, query, key, value, grad)
    query, key, value, grad = (operand.double() for operand in (query, key, value, grad))
    expected, sums = attention_formula.attention(query, key, value, SCALE)
    truth = attention_formula.attention_backward(grad, query, key, value, expected, sums, SCALE)
    pairs = zip((out, *grads), (expected, *truth), strict=True)
    return [float((own.double() - right).norm() / right.norm()) for own, right in pairs]


def test_pieces_are_the_whole() -> None:
    assert max(_errors(AttentionKernel.FORMULA, "cpu", torch.float64, 16)) < 1e-12


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kernel", [AttentionKernel.CUDNN, AttentionKernel.FA2])
def test_kernels_take_pieces(kernel: AttentionKernel) -> None:
    assert max(_errors(kernel, "cuda", torch.bfloat16, 128)) < 2e-2


def test_every_rank_has_a_part_from_the_front_and_one_from_the_back() -> None:
    groups = LayerGroups(context=Communicator(size=2, rank=0))
    assert own_positions(8, groups, CPU).tolist() == [0, 1, 6, 7]
    groups = LayerGroups(context=Communicator(size=2, rank=1), sequence=Communicator(size=2, rank=1))
    assert own_positions(8, groups, CPU).tolist() == [4, 5]


def test_every_rank_scores_as_many_pairs() -> None:
    def pairs(own: int) -> float:
        pieces = [piece_of(own, other, 8) for other in range(NUM_RANKS)]
        return sum(p.queries[1] * p.keys[1] * (0.5 if p.mask.causal else 1.0) for p in pieces)

    assert len({pairs(own) for own in range(NUM_RANKS)}) == 1
