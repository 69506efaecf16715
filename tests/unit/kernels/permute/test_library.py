"""Schemas, fake kernels and autograd of `torch.ops.meshwright.permute` and `unpermute`, and their gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from meshwright.kernels.index.library import index_op
from meshwright.kernels.permute.library import permute_op, unpermute_op

TOKENS, TOP_K, HIDDEN = 7, 3, 8
MAPS = pytest.mark.parametrize(("here", "first", "tile"), [(6, 0, 1), (6, 0, 4), (3, 2, 4)])


def _map(here: int, first: int, tile: int) -> tuple[Tensor, ...]:
    experts = torch.randint(0, 6, (TOKENS, TOP_K), dtype=torch.int32, generator=torch.Generator().manual_seed(0))
    maps: tuple[Tensor, ...] = index_op(experts, here, first, tile)
    return maps


def _leaf(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(*shape, dtype=dtype, generator=torch.Generator().manual_seed(1)).requires_grad_()


@MAPS
def test_gradients_are_right(here: int, first: int, tile: int) -> None:
    maps = _map(here, first, tile)
    tokens, weights = _leaf(TOKENS, HIDDEN, dtype=torch.float64), _leaf(TOKENS, TOP_K, dtype=torch.float64)
    rows = _leaf(maps[0].shape[0], HIDDEN, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x, w: permute_op(x, w, *maps, tile), (tokens, weights))
    assert torch.autograd.gradcheck(lambda x, w: unpermute_op(x, w, *maps, tile), (rows, weights))
    assert torch.autograd.gradcheck(lambda x: unpermute_op(x, None, *maps, tile), (rows,))


@pytest.mark.parametrize("weighted", [True, False])
def test_the_operators_are_registered_soundly(weighted: bool) -> None:
    maps = _map(3, 2, 4)
    weights = _leaf(TOKENS, TOP_K) if weighted else None
    opcheck(permute_op, (_leaf(TOKENS, HIDDEN), weights, *maps, 4))
    opcheck(unpermute_op, (_leaf(maps[0].shape[0], HIDDEN), weights, *maps, 4))
