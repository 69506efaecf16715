from __future__ import annotations

import pytest
import torch
from torch.library import opcheck

from meshwright.kernels.regroup.library import regroup_op


@pytest.mark.parametrize("tile", [1, 4])
def test_the_operator_is_registered_soundly(tile: int) -> None:
    counts = torch.tensor([[2, 0, 3], [1, 4, 0]], dtype=torch.int32)
    opcheck(regroup_op, (counts, 10, tile))
