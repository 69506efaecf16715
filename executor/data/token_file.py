"""A memory-mapped token file as the data of a run: windows of one sequence each, in a new seeded order every epoch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from meshwright.costmodel.errors import InputError
from meshwright.executor.data.source import check_sizes, sample_numbers
from meshwright.executor.data.token_header import TokenHeader, read_header
from meshwright.executor.data.window_order import WindowOrder

Tokens: TypeAlias = npt.NDArray[np.unsignedinteger[npt.NBitBase]]
CHUNK_TOKENS = 1 << 22


class TokenError(InputError):
    """A token that the model's vocabulary has not: only the ranks that read it know."""


@dataclass(frozen=True, kw_only=True)
class TokenFile:
    """A `TokenSource` over a token file.

    Window w holds tokens w seq_len to (w + 1) seq_len, one more than a sequence: the last is the next window's first,
    so that every token but the file's first is a label once an epoch. A rest shorter than a window is left out. Sample
    number n of the run is at place n mod (number of windows) of epoch n div (number of windows).
    """

    path: Path
    header: TokenHeader
    tokens: Tokens
    vocabulary: int
    seq_len: int
    global_batch: int
    seed: int

    @property
    def identity(self) -> str:
        """The checksum of the tokens, as the header says."""
        return self.header.sha256

    @property
    def num_windows(self) -> int:
        """Sequences in an epoch."""
        return (self.header.num_tokens - 1) // self.seq_len

    def batch(self, step: int, sequences: range) -> Tensor:
        """The sequences at these positions of a step's global batch: int64, (len(sequences), seq_len + 1)."""
        numbers = sample_numbers(step, sequences, self.global_batch)
        out = np.empty((len(numbers), self.seq_len + 1), dtype=np.int64)
        for row, number in enumerate(numbers):
            start = self._window(number) * self.seq_len
            out[row] = self.tokens[start : start + self.seq_len + 1]
            self._check(out[row], start)
        return torch.from_numpy(out)

    def _window(self, number: int) -> int:
        epoch, place = divmod(number, self.num_windows)
        return WindowOrder(count=self.num_windows, seed=self.seed, epoch=epoch).window(place)

    def _check(self, row: npt.NDArray[np.int64], start: int) -> None:
        if int(row.max()) >= self.vocabulary:
            place = int(np.argmax(row >= self.vocabulary))
            raise _beyond(self.path, start + place, int(row[place]), self.vocabulary)


def open_token_file(path: Path, *, vocabulary: int, seq_len: int, global_batch: int, seed: int) -> TokenFile:
    """Map a token file and check it: size, length, ids; raises `InputError`."""
    check_sizes(str(path), vocabulary=vocabulary, seq_len=seq_len, global_batch=global_batch)
    header = read_header(path)
    if header.num_tokens < seq_len + 1:
        raise InputError(
            str(path),
            "num_tokens",
            f"{header.num_tokens:,}, shorter than one sequence; expected at least seq_len + 1 = {seq_len + 1:,}",
        )
    tokens: Tokens = np.memmap(path, dtype=header.dtype.numpy_name, mode="r", shape=(header.num_tokens,))
    if header.largest_token >= vocabulary:
        raise _first_beyond(path, tokens, header, vocabulary)
    return TokenFile(
        path=path,
        header=header,
        tokens=tokens,
        vocabulary=vocabulary,
        seq_len=seq_len,
        global_batch=global_batch,
        seed=seed,
    )


def verify_tokens(path: Path) -> None:
    """Read a whole token file and compare it with the checksum in its header; raises `InputError`."""
    header = read_header(path)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != header.sha256:
        raise InputError(str(path), "sha256", f"{found}, expected {header.sha256}: the tokens were changed")


def _first_beyond(path: Path, tokens: Tokens, header: TokenHeader, vocabulary: int) -> InputError:
    for start in range(0, len(tokens), CHUNK_TOKENS):
        beyond = tokens[start : start + CHUNK_TOKENS] >= vocabulary
        if beyond.any():
            place = start + int(np.argmax(beyond))
            return _beyond(path, place, int(tokens[place]), vocabulary)
    return InputError(
        str(path), "largest_token", f"{header.largest_token} by the header, but no token is that large: another file's"
    )


def _beyond(path: Path, place: int, token: int, vocabulary: int) -> TokenError:
    return TokenError(
        str(path), f"token {place:,}", f"{token}, beyond the model's vocabulary; expected an id below {vocabulary:,}"
    )
