"""Which operands the CUDA kernels take."""

from __future__ import annotations

import torch
from torch import Tensor

from meshwright.kernels.tensors import first_reason, why_not_rows


def why_not(gate_PF: Tensor, up_PF: Tensor, weights_P: Tensor | None) -> str | None:
    """Why the CUDA kernels can't take these rows; None: they can."""
    wrong_weights = weights_P is not None and weights_P.dtype is not torch.float32
    return first_reason(
        why_not_rows("gate", gate_PF),
        why_not_rows("up", up_PF),
        "gate weights are not float32" if wrong_weights else None,
    )
