"""Schema, fake kernel and autograd of `torch.ops.meshwright.swiglu`, and its gradient against finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from meshwright.kernels.index.library import index_op
from meshwright.kernels.swiglu.library import swiglu_op

NO_MAP = (None, None, None, None, 1)
WIDTH = 8


def _map(tile: int) -> tuple[Tensor | int, ...]:
    experts = torch.randint(0, 4, (5, 2), dtype=torch.int32, generator=torch.Generator().manual_seed(0))
    return (*index_op(experts, 4, 0, tile), tile)


def _leaf(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(1)).requires_grad_()


@pytest.mark.parametrize("padded", [True, False])
def test_gradients_are_right(padded: bool) -> None:
    rowmap = _map(4) if padded else NO_MAP
    rows = rowmap[0].shape[0] if isinstance(rowmap[0], Tensor) else 6
    gate, up, weights = (_leaf(*shape, dtype=torch.float64) for shape in ((rows, WIDTH), (rows, WIDTH), (rows,)))
    assert torch.autograd.gradcheck(lambda x, y, w: swiglu_op(x, y, w, *rowmap), (gate, up, weights))


@pytest.mark.parametrize("padded", [True, False])
def test_the_operator_is_registered_soundly(padded: bool) -> None:
    rowmap = _map(4) if padded else NO_MAP
    rows = rowmap[0].shape[0] if isinstance(rowmap[0], Tensor) else 6
    joint = _leaf(rows, 2 * WIDTH, dtype=torch.float32)
    weights = _leaf(rows, dtype=torch.float32) if padded else None
    opcheck(swiglu_op, (*joint.detach().chunk(2, -1), weights, *rowmap))
