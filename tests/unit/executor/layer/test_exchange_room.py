"""Room grows with what was needed, shrinks late, and tells when it was too little."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from meshwright.executor.layer.exchange_room import EXCHANGES, WINDOW, ExchangeRooms, room_for

CPU = torch.device("cpu")


def needs(*rows: int) -> list[int]:
    """What one layer has needed."""
    return [*rows, *[0] * (EXCHANGES - len(rows))]


@given(needed=st.integers(0, 10_000_000))
def test_room_is_an_eighth_more_and_some_for_chance(needed: int) -> None:
    room = room_for(needed)
    assert needed * 9 // 8 + 16 <= room <= (needed * 9 / 8 + 4 * needed**0.5 + 17) * 17 / 16 + 16
    assert room_for(needed + 1) >= room


def test_there_is_no_limit_before_anything_is_known_and_where_it_is_lifted() -> None:
    rooms = ExchangeRooms(2, CPU)
    room = rooms.of_layer(1)
    assert room.rows(0) is None
    room.note(0, torch.tensor(1_000_000))
    assert not rooms.overflowed()
    rooms.learn([*needs(7), *needs(100)])
    assert (rooms.of_layer(0).rows(0), room.rows(0)) == (room_for(7), room_for(100))
    rooms.lift()
    assert room.rows(0) is None
    assert not rooms.overflowed()


def test_the_most_of_a_step_decides_whether_there_was_too_little() -> None:
    rooms = ExchangeRooms(1, CPU)
    rooms.learn(needs(100, 50))
    rooms.restart()
    for rows in (90, room_for(100), 20):
        rooms.of_layer(0).note(0, torch.tensor(rows, dtype=torch.int32))
    assert rooms.needed.tolist() == [needs(room_for(100))]
    assert not rooms.overflowed()
    rooms.of_layer(0).note(1, torch.tensor(room_for(50) + 1))
    assert rooms.overflowed()
    rooms.restart()
    assert not rooms.overflowed()


def test_room_grows_at_once_and_shrinks_when_no_late_step_needed_it() -> None:
    rooms = ExchangeRooms(1, CPU)
    room = rooms.of_layer(0)
    rooms.learn(needs(1000))
    rooms.learn(needs(5000))
    assert room.rows(0) == room_for(5000)
    for _ in range(WINDOW - 1):
        rooms.learn(needs(1000))
        assert room.rows(0) == room_for(5000)
    rooms.learn(needs(1000))
    assert room.rows(0) == room_for(1000)


def test_room_that_is_a_little_too_much_stays() -> None:
    """Sizes that change in every step would leave memory in pieces."""
    rooms = ExchangeRooms(1, CPU)
    rooms.learn(needs(1000))
    for _ in range(WINDOW + 1):
        rooms.learn(needs(950))
    assert rooms.of_layer(0).rows(0) == room_for(1000)


def test_layers_without_exchanges_need_nothing() -> None:
    rooms = ExchangeRooms(0, CPU)
    assert not rooms.overflowed()
    rooms.learn([])
    rooms.lift()
    assert rooms.rows == []
