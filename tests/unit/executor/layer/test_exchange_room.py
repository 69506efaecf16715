"""Room grows with what was needed, shrinks late, and tells when it was too little."""

from __future__ import annotations

from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from meshwright.executor.layer.exchange_room import EXCHANGES, WINDOW, ExchangeRooms, LayerRoom, room_for

CPU = torch.device("cpu")
RANKS = 2


def needs(*rows: int) -> Tensor:
    """What the ranks of one layer's first exchange have needed."""
    needed = torch.zeros(1, EXCHANGES, RANKS, dtype=torch.int32)
    needed[0, 0, : len(rows)] = torch.tensor(rows)
    return needed


def first_rows(room: LayerRoom) -> tuple[int, ...]:
    """Rows to each rank in the first exchange."""
    parts = room.to_all(0, RANKS)
    assert parts is not None
    assert parts.ends_N.tolist() == [parts.rows[0], sum(parts.rows)]
    return parts.rows


def room_of(*steps: int) -> int:
    """Rows to have room for."""
    return int(room_for(torch.tensor(steps).unsqueeze(1)))


@given(steps=st.lists(st.integers(0, 10_000_000), min_size=1, max_size=WINDOW))
def test_room_is_for_the_last_and_twice_the_greatest_rise_up_to_the_most(steps: list[int]) -> None:
    last, most, room = steps[-1], max(steps), room_of(*steps)
    rise = max([0, *(after - before for before, after in pairwise(steps))])
    spare = min(2 * rise, most + most // 8 - last)
    wanted = last + max(spare, last // 8 if len(steps) < WINDOW else 0) + 2 * last**0.5 + 16
    assert wanted - 2 <= room <= wanted * 65 / 64 + 16


def test_each_has_its_own() -> None:
    together = room_for(torch.tensor([[100, 5000], [200, 4000]]))
    assert together.tolist() == [room_of(100, 200), room_of(5000, 4000)]


def test_there_is_no_limit_before_anything_is_known_and_where_it_is_lifted() -> None:
    rooms = ExchangeRooms(1, RANKS, CPU)
    room = rooms.of_layer(0)
    assert room.to_all(0, RANKS) is room.of_one(0, 1) is None
    room.note(0, torch.tensor([1_000_000, 0]), 0, RANKS)
    assert not rooms.overflowed()
    rooms.learn(needs(7, 100))
    assert first_rows(room) == (room_of(7), room_of(100))
    own = room.of_one(0, 1)
    assert own is not None
    assert (own.rows, own.ends_N.tolist()) == ((room_of(100),), [room_of(100)])
    rooms.lift()
    assert room.to_all(0, RANKS) is None
    assert not rooms.overflowed()


def test_the_most_of_a_step_decides_whether_there_was_too_little() -> None:
    rooms = ExchangeRooms(1, RANKS, CPU)
    rooms.learn(needs(100, 50))
    rooms.restart()
    room, limits = rooms.of_layer(0), (room_of(100), room_of(50))
    for first, second in ((90, 10), limits, (20, 30)):
        room.note(0, torch.tensor([first - 1, 1, second, 0], dtype=torch.int32), 0, RANKS)
    assert rooms.needed[0, 0].tolist() == list(limits)
    assert not rooms.overflowed()
    room.note(0, torch.tensor([limits[1], 1]), 1, 1)
    assert rooms.overflowed()
    rooms.restart()
    assert not rooms.overflowed()


def test_room_grows_at_once_and_shrinks_with_what_is_needed() -> None:
    rooms = ExchangeRooms(1, RANKS, CPU)
    room = rooms.of_layer(0)
    rooms.learn(needs(1000))
    rooms.learn(needs(5000))
    assert first_rows(room)[0] == room_of(1000, 5000) > 5_600
    for _ in range(WINDOW):
        rooms.learn(needs(1000))
    assert first_rows(room)[0] == room_of(*[1000] * WINDOW) < 1_100


def test_room_that_is_a_little_too_much_stays() -> None:
    """Sizes that change in every step would leave memory in pieces."""
    rooms = ExchangeRooms(1, RANKS, CPU)
    for _ in range(WINDOW):
        rooms.learn(needs(1000))
    before = first_rows(rooms.of_layer(0))
    for _ in range(WINDOW):
        rooms.learn(needs(990))
    assert first_rows(rooms.of_layer(0)) == before


def test_layers_without_exchanges_need_nothing() -> None:
    rooms = ExchangeRooms(0, 0, CPU)
    assert not rooms.overflowed()
    rooms.learn(rooms.needed)
    rooms.lift()
    assert rooms.rows is None
