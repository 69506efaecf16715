"""Rows by expert and back, against loops over slots."""

from __future__ import annotations

import torch

from meshwright.executor.layer.functions.permutation import by_token, sorted_rows, summed_rows, token_gradients
from meshwright.executor.layer.routing import sort_slots

TOKENS, TOP_K, HIDDEN, EXPERTS = 12, 3, 4, 5


def _experts() -> torch.Tensor:
    scores = torch.rand((TOKENS, EXPERTS), generator=torch.Generator().manual_seed(0))
    return scores.topk(TOP_K, dim=-1).indices


def test_every_row_is_its_tokens_and_goes_back_there() -> None:
    experts = _experts()
    slots, _ = sort_slots(experts)
    x = torch.arange(float(TOKENS * HIDDEN)).view(TOKENS, HIDDEN)
    weights = torch.arange(float(TOKENS * TOP_K)).view(TOKENS, TOP_K)
    rows, gates = sorted_rows(x, weights, slots.slots_R)
    order = sorted(range(TOKENS * TOP_K), key=lambda slot: (int(experts.flatten()[slot]), slot))
    for row, slot in enumerate(order):
        assert torch.equal(rows[row], x[slot // TOP_K])
        assert gates[row] == slot
    assert torch.equal(by_token(gates, slots.places_TK).squeeze(-1), weights)
    assert torch.equal(summed_rows(rows, slots.places_TK), TOP_K * x)
    assert torch.equal(token_gradients(x, slots.slots_R, TOP_K), rows)
