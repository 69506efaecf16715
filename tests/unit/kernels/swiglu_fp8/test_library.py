from __future__ import annotations

import torch
from torch.library import opcheck

from meshwright.kernels.swiglu_fp8.library import swiglu_fp8_op


def test_the_operator_is_registered_soundly() -> None:
    gate, up = torch.randn(256, 256, dtype=torch.bfloat16).chunk(2, -1)
    opcheck(swiglu_fp8_op, (gate, up, torch.rand(256), None, None, None, None, 128))
