"""The namespace of the operators that autograd and torch.compile know: torch.ops.meshwright."""

from __future__ import annotations

from typing import Final

NAMESPACE: Final = "meshwright"
ROW_MAP: Final = "Tensor slots, Tensor places, Tensor counts, Tensor offsets, int tile"
"""How a map of rows is written in a schema."""
