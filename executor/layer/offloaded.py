"""The kept tensors of a micro-batch in a layer that wait in host memory between forward and backward."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from meshwright.executor.layer.host_buffers import HostBuffers
from meshwright.executor.layer.values import Values, side_by_side

PASSING = "passing:"
"""Before the names of tensors on their way, while they are with the layer whose pass copies them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _OnHost:
    """Tensors side by side, and where they come from. `joint` is the part of a buffer that they are in."""

    names: tuple[str, ...]
    widths: tuple[int, ...]
    buffer: Tensor
    joint: Tensor
    device: torch.device


class OffloadedTensors:
    """Tensors of `values`: there, in host memory, or back on the device and with the layer whose pass has copied them.

    A copy works on the values of the pass that it is an operator of, so that its streams see what it reads and writes.
    The host never waits.
    """

    def __init__(self, values: Values, names: Sequence[str], buffers: HostBuffers) -> None:
        self.names = tuple(names)
        self._values = values
        self._buffers = buffers
        self._on_host: list[_OnHost] = []
        self._holder = values

    @property
    def is_away(self) -> bool:
        """Whether they are in host memory."""
        return bool(self._on_host)

    def leave(self, through: Values) -> None:
        """Copy to the host. The memory of the device is free when all that uses it is behind the copy."""
        for name in self.names:
            through.take(PASSING + name, self._values, name)
        tensors = {name: through[PASSING + name] for name in self.names}
        self._on_host = [_to_host(found, self._buffers) for found in _joint(tensors)]
        through.drop([PASSING + name for name in self.names])

    def leave_in_line(self) -> None:
        """Copy to the host on the current stream, between passes."""
        self.leave(self._values)

    def come(self, through: Values) -> None:
        """Copy back to the device, if they are not there."""
        for one in self._on_host:
            joint = torch.empty(one.joint.shape, dtype=one.joint.dtype, device=one.device)
            joint.copy_(one.joint, non_blocking=True)
            self._buffers.give_back(one.buffer)
            for name, tensor in zip(one.names, joint.split(one.widths, -1), strict=True):
                through.put(PASSING + name, tensor)
        if self._on_host:
            self._on_host, self._holder = [], through

    def settle(self) -> None:
        """Be back in the layer, copied here and now if need be."""
        self.come(self._values)
        for name in self.names:
            if PASSING + name in self._holder:
                self._values.take(name, self._holder, PASSING + name)
        self._holder = self._values


def _joint(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Neighbouring columns of one buffer, as a joint product leaves them, together: they come back as they were."""
    left = list(tensors)
    while left:
        found = {name: tensors[name] for name in left[:2]}
        joint = side_by_side(list(found.values()))
        if joint is None or not joint.is_contiguous():
            found = {left[0]: tensors[left[0]]}
        yield found
        del left[: len(found)]


def _to_host(tensors: Mapping[str, Tensor], buffers: HostBuffers) -> _OnHost:
    parts = list(tensors.values())
    joint = parts[0] if len(parts) == 1 else side_by_side(parts)
    assert joint is not None  # neighbours
    joint = joint.contiguous()
    buffer = buffers.take(joint.nbytes, pinned=joint.is_cuda)
    on_host = buffer[: joint.nbytes].view(joint.dtype).view(joint.shape)
    on_host.copy_(joint, non_blocking=True)
    widths = tuple(part.shape[-1] for part in parts)
    return _OnHost(names=tuple(tensors), widths=widths, buffer=buffer, joint=on_host, device=joint.device)
