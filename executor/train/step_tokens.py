"""The tokens that one rank needs of each step, made ready while the step before is running."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from meshwright.executor.data.source import TokenSource


class StepTokens:
    """The sequences at fixed positions of every step's global batch, on the CPU; pinned where they go to a GPU."""

    def __init__(self, source: TokenSource, sequences: range, device: torch.device) -> None:
        self._source = source
        self._sequences = sequences
        self._device = device
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tokens", initializer=self._open_device)
        self._step = -1
        self._tokens: Future[Tensor] | None = None

    def of_step(self, step: int) -> Tensor:
        """The sequences of a step, (len(sequences), S + 1); begins to make those of the next when asked for new ones.

        Raises what the source raises.
        """
        if self._tokens is None or step != self._step:
            self._tokens = self._worker.submit(self._batch, step)
        tokens = self._tokens.result()
        self._step, self._tokens = step + 1, self._worker.submit(self._batch, step + 1)
        return tokens

    def _open_device(self) -> None:
        """A new thread's device is the first GPU, where pinning memory would open a context."""
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)

    def _batch(self, step: int) -> Tensor:
        tokens = self._source.batch(step, self._sequences)
        return tokens.pin_memory() if self._device.type == "cuda" else tokens
