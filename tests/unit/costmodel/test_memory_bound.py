"""Memory-bound kernels by hand."""

from __future__ import annotations

import pytest

from meshwright.costmodel.formulas.memory_bound import memory_bound_s


def test_kernels_start_and_bytes_move_at_the_share() -> None:
    time_s = memory_bound_s(num_bytes=6e9, copy_bytes_per_s=3e12, share=0.8, start_s=6e-6)
    assert time_s == pytest.approx(6e-6 + 2.5e-3)
