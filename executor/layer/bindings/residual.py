"""Sums of branches: residuals, and the gradients that meet at the input of an MoE block."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

import torch
from torch import Tensor

from meshwright.costmodel.program.operators import Operator
from meshwright.executor.layer.scope import Scope


def add_all(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """The sum of what the operator reads."""
    return {operator.writes[0]: reduce(torch.add, scope.reads(operator))}
