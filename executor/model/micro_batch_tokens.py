"""The tokens of a micro-batch as the model's two ends need them on one rank."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from meshwright.executor.layer.groups import Communicator


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatchTokens:
    """Token ids and, for each, the id that follows: (T,), sequence-major, T the tokens of a tensor-parallel region."""

    inputs_T: Tensor
    labels_T: Tensor


def own_tokens(tokens_BS: Tensor, sequence: Communicator) -> MicroBatchTokens:
    """This rank's part of the tokens of a micro-batch, (B, S + 1), of which the last is only predicted."""
    return MicroBatchTokens(inputs_T=_part(tokens_BS[:, :-1], sequence), labels_T=_part(tokens_BS[:, 1:], sequence))


def _part(tokens_BS: Tensor, sequence: Communicator) -> Tensor:
    return tokens_BS.t().chunk(sequence.size)[sequence.rank].flatten()
