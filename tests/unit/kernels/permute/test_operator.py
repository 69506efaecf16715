from __future__ import annotations

import pytest
import torch

from meshwright.kernels.errors import KernelInputError
from meshwright.kernels.index.operator import index
from meshwright.kernels.permute.operator import permute, permute_backward, unpermute, unpermute_backward

ROWMAP = index(torch.tensor([[1, 0], [0, 2]], dtype=torch.int32), 3, tile=2)
TOKENS = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
WEIGHTS = torch.tensor([[0.5, 0.25], [2.0, 1.0]])


def test_rows_and_gates_go_to_their_experts() -> None:
    permuted = permute(TOKENS, ROWMAP, WEIGHTS)
    end = int(ROWMAP.offsets_E[-1])
    assert permuted.rows_PH[:end].tolist() == [[1, 2], [3, 4], [1, 2], [0, 0], [3, 4], [0, 0]]
    assert permuted.gates_P is not None
    assert permuted.gates_P[:end].tolist() == [0.25, 2.0, 0.5, 0.0, 1.0, 0.0]


def test_rows_come_back_weighted() -> None:
    rows = permute(TOKENS, ROWMAP).rows_PH
    assert unpermute(rows, ROWMAP).tolist() == (2 * TOKENS).tolist()
    assert unpermute(rows, ROWMAP, WEIGHTS).tolist() == [[0.75, 1.5], [9.0, 12.0]]


def test_a_wrong_number_of_rows_is_refused() -> None:
    with pytest.raises(KernelInputError, match="unpermute: rows has shape"):
        unpermute(TOKENS, ROWMAP)
    with pytest.raises(KernelInputError, match="permute: weights has shape"):
        permute(TOKENS, ROWMAP, WEIGHTS[:1])
    with pytest.raises(KernelInputError, match="permute_backward: grad_gates has shape"):
        permute_backward(permute(TOKENS, ROWMAP).rows_PH, ROWMAP, torch.zeros(1))
    with pytest.raises(KernelInputError, match="unpermute_backward: rows has shape"):
        unpermute_backward(TOKENS, TOKENS, ROWMAP, WEIGHTS)
