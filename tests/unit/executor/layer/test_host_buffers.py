"""Buffers in host memory are used again by what fits, and there are no more than were in use at a time."""

from __future__ import annotations

import pytest

from meshwright.executor.layer.host_buffers import HostBuffers


@pytest.mark.parametrize(("num_bytes", "size"), [(0, 1), (1, 1), (2, 2), (3, 4), (4096, 4096), (4097, 8192)])
def test_sizes_are_powers_of_two(num_bytes: int, size: int) -> None:
    assert HostBuffers().take(num_bytes, pinned=False).nbytes == size


def test_what_is_given_back_is_used_again() -> None:
    buffers = HostBuffers()
    first, second = (buffers.take(num_bytes, pinned=False) for num_bytes in (30, 31))
    assert first is not second
    buffers.give_back(first)
    assert buffers.take(65, pinned=False) is not first
    assert buffers.take(17, pinned=False) is first
    assert buffers.take(17, pinned=False) is not first
