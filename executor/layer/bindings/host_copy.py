"""Copies between a GPU and its host's memory."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from meshwright.costmodel.program.operators import Operator
from meshwright.executor.layer.scope import Scope


def offload(_operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Send what the layer before has left."""
    scope.host_copies.send(scope.values)
    return {}


def reload(_operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Bring what the backward behind this one needs."""
    scope.host_copies.fetch(scope.values)
    return {}
