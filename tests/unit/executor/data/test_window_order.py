"""The order of windows is a permutation, and another one for every seed and epoch."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshwright.executor.data.window_order import WindowOrder


def _order(count: int, seed: int, epoch: int) -> list[int]:
    order = WindowOrder(count=count, seed=seed, epoch=epoch)
    return [order.window(place) for place in range(count)]


@given(count=st.integers(1, 300), seed=st.integers(0, 2**63), epoch=st.integers(0, 1000))
def test_it_is_a_permutation(count: int, seed: int, epoch: int) -> None:
    assert sorted(_order(count, seed, epoch)) == list(range(count))


def test_seeds_and_epochs_differ() -> None:
    orders = [tuple(_order(64, seed, epoch)) for seed in range(4) for epoch in range(4)]
    assert len(set(orders)) == 16
    assert tuple(range(64)) not in orders


def test_it_stays_what_it_is() -> None:
    """A run resumed by a later release reads the same tokens."""
    assert _order(10, seed=1, epoch=0) == [4, 3, 2, 7, 8, 6, 1, 0, 9, 5]


def test_neighbours_are_spread_evenly() -> None:
    """Every place gets every window about equally often: 3,000 draws of 16 windows, 187.5 expected, 5 deviations."""
    counts = [0] * 16
    for seed in range(3000):
        counts[WindowOrder(count=16, seed=seed, epoch=0).window(3)] += 1
    assert all(abs(count - 187.5) < 5 * 187.5**0.5 for count in counts)


def test_billions_of_windows_cost_nothing() -> None:
    order = WindowOrder(count=10**12, seed=0, epoch=7)
    windows = {order.window(place) for place in range(1000)}
    assert len(windows) == 1000
    assert max(windows) < 10**12
