"""What a training run asks of its data."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from meshwright.costmodel.errors import InputError


class TokenSource(Protocol):
    """Token sequences of a global batch, by step and position."""

    @property
    def identity(self) -> str:
        """What tells this data from other data, whatever the seed and the sizes: a checksum, or a stream's name."""
        ...

    def batch(self, step: int, sequences: range) -> Tensor:
        """The sequences at these positions of a step's global batch: int64, (len(sequences), seq_len + 1).

        Columns 0 to seq_len - 1 are inputs, columns 1 to seq_len their labels.
        """
        ...


def check_sizes(where: str, *, vocabulary: int, seq_len: int, global_batch: int) -> None:
    """Raise for a size that no data has."""
    sizes = {"vocabulary": vocabulary, "seq_len": seq_len, "global_batch": global_batch}
    for name, size in sizes.items():
        if size < 1:
            raise InputError(where, name, f"{size}, expected a positive whole number")


def sample_numbers(step: int, sequences: range, global_batch: int) -> range:
    """The numbers of these sequences among all that the run has read since step 0."""
    if step < 0:
        raise InputError("data", "step", f"{step}, expected zero or a positive whole number")
    positions = (sequences.start, sequences.stop) if sequences.step == 1 else (-1, -1)
    if len(sequences) and not 0 <= positions[0] <= positions[1] <= global_batch:
        raise InputError(
            "data", "sequences", f"{sequences}, expected consecutive positions below the global batch of {global_batch}"
        )
    first = step * global_batch
    return range(first + sequences.start, first + sequences.start + len(sequences))
