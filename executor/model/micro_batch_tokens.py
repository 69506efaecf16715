"""The tokens of a micro-batch as the model's two ends need them on one rank."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from meshwright.executor.layer.groups import LayerGroups
from meshwright.executor.layer.position import own_positions


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatchTokens:
    """Token ids and, for each, the id that follows: (T,), sequence-major, T the tokens of a tensor-parallel region."""

    inputs_T: Tensor
    labels_T: Tensor


def own_tokens(tokens_BS: Tensor, groups: LayerGroups) -> MicroBatchTokens:
    """This rank's part of the tokens of a micro-batch, (B, S + 1), of which the last is only predicted."""
    tokens_SB = tokens_BS.t()
    positions = own_positions(tokens_BS.shape[1] - 1, groups, tokens_BS.device)
    return MicroBatchTokens(
        inputs_T=tokens_SB.index_select(0, positions).flatten(),
        labels_T=tokens_SB.index_select(0, positions + 1).flatten(),
    )
