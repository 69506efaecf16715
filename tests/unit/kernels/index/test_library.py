from __future__ import annotations

import pytest
import torch
from torch.library import opcheck

from meshwright.kernels.index.library import index_op


@pytest.mark.parametrize(("here", "first", "tile"), [(6, 0, 4), (3, 2, 1)])
def test_the_operator_is_registered_soundly(here: int, first: int, tile: int) -> None:
    opcheck(index_op, (torch.randint(0, 6, (10, 3), dtype=torch.int32), here, first, tile))
