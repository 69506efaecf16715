"""Chooses what runs an operation, CUDA kernel or PyTorch reference, and keeps a record of it.

Falling back is never silent: one line for each reason. $MESHWRIGHT_KERNELS: `auto` (default), `reference`, or `cuda`,
which makes falling back an error.
"""

from __future__ import annotations

import logging
import os
from enum import StrEnum
from functools import lru_cache

import torch
from torch import Tensor

from meshwright.costmodel.errors import InputError
from meshwright.costmodel.value import Value
from meshwright.kernels.catalogue import NAMESPACE
from meshwright.kernels.errors import KernelBuildError
from meshwright.kernels.library import make_ready, why_not_device

MODE_VARIABLE = "MESHWRIGHT_KERNELS"
LOGGER = logging.getLogger("meshwright.kernels")


class Mode(StrEnum):
    """Which implementations may run."""

    AUTO = "auto"
    REFERENCE = "reference"
    CUDA = "cuda"


class Implementation(StrEnum):
    """What ran."""

    REFERENCE = "reference"
    CUDA = "cuda"


class Choice(Value, frozen=True, kw_only=True):
    """How often an implementation ran an operation, and why the reference did (empty for CUDA)."""

    operation: str
    implementation: Implementation
    reason: str
    calls: int


class Dispatcher:
    """The choices of one process. Builds and loads the library when the first CUDA tensor comes."""

    def __init__(self, mode: Mode) -> None:
        self.mode = mode
        self._problems: dict[int, str | None] = {}
        self._calls: dict[tuple[str, str], int] = {}
        self._told: set[str] = set()

    def runs_cuda(self, operation: str, tensor: Tensor, why_not: str | None) -> bool:
        """Whether the CUDA kernel runs. `why_not`: what about the operands it can't take.

        Raises:
            KernelBuildError: The reference would run, but the mode is `cuda`.
        """
        nowhere = self.why_not_on(tensor.device)
        reason = nowhere or why_not or ""
        self._calls[(operation, reason)] = self._calls.get((operation, reason), 0) + 1
        if not reason:
            return True
        if self.mode is Mode.CUDA:
            raise KernelBuildError(f"{operation}: {reason}, and ${MODE_VARIABLE} is cuda")
        self._tell(
            f"{operation} runs as its PyTorch reference: {reason}"
            if nowhere is None
            else f"PyTorch references run instead of CUDA kernels: {reason}"
        )
        return False

    def _tell(self, line: str) -> None:
        """Say a line once."""
        if line not in self._told:
            self._told.add(line)
            LOGGER.warning("kernels: %s", line)

    def why_not_on(self, device: torch.device) -> str | None:
        """Why no CUDA kernel runs on a device, whatever its operands; None: kernels run."""
        if self.mode is Mode.REFERENCE:
            return f"${MODE_VARIABLE} is reference"
        if device.type != "cuda":
            return f"tensors are on {device.type}"
        index = device.index or 0
        if index not in self._problems:
            self._problems[index] = why_not_device(index) or make_ready(LOGGER.warning)
        return self._problems[index]

    def record(self) -> tuple[Choice, ...]:
        """What ran so far, for the record of a run."""
        return tuple(
            Choice(
                operation=operation,
                implementation=Implementation.REFERENCE if reason else Implementation.CUDA,
                reason=reason,
                calls=calls,
            )
            for (operation, reason), calls in sorted(self._calls.items())
        )


@lru_cache(maxsize=1)
def dispatcher() -> Dispatcher:
    """The dispatcher of this process, in the mode that the environment asks for."""
    mode = os.environ.get(MODE_VARIABLE, Mode.AUTO)
    if mode not in set(Mode):
        raise InputError(f"${MODE_VARIABLE}", "", f"is {mode}, expected {', '.join(Mode)}")
    return Dispatcher(Mode(mode))


def launch(name: str, device: torch.device, *arguments: object) -> None:
    """Run an operator of the library on the device's current stream."""
    operator = getattr(getattr(torch.ops, NAMESPACE), name)
    with torch.cuda.device(device):
        operator(*arguments, torch.cuda.current_stream(device).cuda_stream)


@lru_cache(maxsize=16)
def num_sms(device: torch.device) -> int:
    """Streaming multiprocessors of a GPU."""
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
