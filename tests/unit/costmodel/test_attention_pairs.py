from __future__ import annotations

import pytest

from meshwright.costmodel.formulas.attention_pairs import causal_pairs


@pytest.mark.parametrize(("seq_len", "window"), [(4096, 0), (4096, 128), (4096, 4095), (4096, 4096), (512, 9999)])
def test_pairs_are_those_of_the_mask(seq_len: int, window: int) -> None:
    """Counting token by token; the triangle's area leaves out half of the diagonal."""
    reach = window or seq_len
    counted = sum(min(query + 1, reach) for query in range(seq_len))
    assert causal_pairs(seq_len, window) == pytest.approx(counted, abs=seq_len / 2 + 1)
