"""The token embedding: a look-up in this rank's rows of the vocabulary, and the gradient of those rows.

Token ids ride with the residual stream: the program leaves them out as too small.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from meshwright.costmodel.program.operators import Operator
from meshwright.executor.layer.lifetime import INPUT
from meshwright.executor.layer.scope import Scope

TABLE = "embedding"
TOKENS = "tokens"


def look_up(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Vectors of all tokens of the tensor-parallel ranks, (T, H): zero where another rank has the token's row."""
    table = scope.parameters[TABLE]
    rows, elsewhere = _own_rows(scope)
    found = F.embedding(rows.masked_fill(elsewhere, 0), table)
    return {operator.writes[0]: found.masked_fill_(elsewhere.unsqueeze(1), 0.0)}


def look_up_wgrad(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """The gradient of this rank's rows: a dense table, the same in every run."""
    grad, num_rows = scope.values[operator.reads[0]], scope.parameters[TABLE].shape[0]
    rows, elsewhere = _own_rows(scope)
    table = torch.ops.aten.embedding_dense_backward(
        grad.contiguous(), rows.masked_fill(elsewhere, num_rows), num_rows + 1, num_rows, False
    )
    scope.parameters.add_gradient(TABLE, table.narrow(0, 0, num_rows))
    return {}


def _own_rows(scope: Scope) -> tuple[Tensor, Tensor]:
    """Rows of the tokens counted from this rank's first, and which tokens have theirs on another rank."""
    num_rows = scope.parameters[TABLE].shape[0]
    rows = scope.values.rider(INPUT, TOKENS, Tensor) - scope.layer.vocabulary_rows.start
    return rows, (rows < 0) | (rows >= num_rows)
