"""Checks rows with more numbers than 32 bits count, on a GPU."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from meshwright.kernels.checking.error import same_bits
from meshwright.kernels.checking.finding import Finding, compared, exact
from meshwright.kernels.index.operator import index
from meshwright.kernels.permute.operator import permute, unpermute
from meshwright.kernels.swiglu.operator import swiglu
from meshwright.kernels.swiglu.reference import product

CASE = "more than 2**31 numbers"
TOKENS, EXPERTS, TOP_K, HIDDEN = 65_600, 64, 8, 4096
FEW = 64


def check_large(device: torch.device) -> Iterator[Finding]:
    """Rows there and back, and SwiGLU at the end of its buffer. Needs some 20 GB."""
    experts = torch.rand(TOKENS, EXPERTS, device=device).topk(TOP_K).indices.to(torch.int32)
    rowmap = index(experts, EXPERTS)
    tokens = torch.randn(TOKENS, HIDDEN, device=device, dtype=torch.bfloat16)
    rows = permute(tokens, rowmap).rows_PH
    alike = all(same_bits(rows.index_select(0, rowmap.places_TK[:, k]), tokens) for k in range(TOP_K))
    yield exact("permute: rows", CASE, holds=alike)
    last = torch.zeros(TOKENS, TOP_K, device=device)
    last[:, -1] = 1
    yield exact("unpermute after permute", CASE, holds=same_bits(unpermute(rows, rowmap, last), tokens))
    gate, up = rows.chunk(2, -1)
    out = swiglu(gate, up)
    truth = product(gate[-FEW:].double(), up[-FEW:].double(), None, None)
    yield compared("swiglu", CASE, out[-FEW:], truth)
