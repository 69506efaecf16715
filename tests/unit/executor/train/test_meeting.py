"""Ranks that were started together meet, whatever earlier starts have left in the store."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
from torch._C._distributed_c10d import HashStore

from meshwright.costmodel.errors import InputError
from meshwright.executor.train.meeting import ROUND, Hello, Round, agree, meet

SECONDS = 20.0


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


def hellos(start: str, *restarts: int) -> list[Hello]:
    return [Hello(word=f"{start} {rank}", restarts=count) for rank, count in enumerate(restarts)]


def rounds(pool: ThreadPoolExecutor, store: HashStore, words: list[Hello]) -> list[Round]:
    """All ranks at once, the first one first."""
    count = len(words)
    waiting = [pool.submit(agree, store, rank, count, word, SECONDS) for rank, word in enumerate(words)]
    return [one.result() for one in waiting]


def test_all_have_the_same_part_of_the_store_and_all_words(pool: ThreadPoolExecutor) -> None:
    words = hellos("first", 0, 2, 0)
    found = rounds(pool, HashStore(), words)
    assert len({one.prefix for one in found}) == 1
    assert [one.hellos for one in found] == [tuple(words)] * 3


def test_the_next_start_finds_another_part_of_the_same_store(pool: ThreadPoolExecutor) -> None:
    store = HashStore()
    prefixes = {rounds(pool, store, hellos(start, 0, 0, 0, 0))[0].prefix for start in ("first", "second", "third")}
    assert len(prefixes) == 3


@pytest.mark.parametrize("late", [0, 1, 2])
def test_a_rank_that_comes_late_is_waited_for_though_its_predecessor_has_left_a_word(
    pool: ThreadPoolExecutor, late: int
) -> None:
    store, words = HashStore(), hellos("second", 1, 0, 0)
    before = rounds(pool, store, hellos("first", 0, 0, 0))
    early = [pool.submit(agree, store, rank, 3, words[rank], SECONDS) for rank in range(3) if rank != late]
    time.sleep(0.2)
    assert not any(one.done() for one in early)
    found = [agree(store, late, 3, words[late], SECONDS), *(one.result() for one in early)]
    assert {one.prefix for one in found}.isdisjoint(one.prefix for one in before)
    assert {one.hellos for one in found} == {tuple(words)}


def test_who_does_not_come_is_named(pool: ThreadPoolExecutor) -> None:
    store, words = HashStore(), hellos("first", 0, 0, 0, 0)
    other = pool.submit(agree, store, 2, 4, words[2], 0.3)
    with pytest.raises(TimeoutError, match=r"^ranks 1, 3 have not come within 0\.5 s$"):
        agree(store, 0, 4, words[0], 0.5)
    with pytest.raises(TimeoutError, match=r"^rank 0 has not called them within 0\.3 s$"):
        other.result()


def test_a_round_of_a_smaller_start_is_no_call(pool: ThreadPoolExecutor) -> None:
    store = HashStore()
    store.set(ROUND, msgspec.json.encode(Round(prefix="old", hellos=())).decode())
    found = rounds(pool, store, hellos("first", 0, 0))
    assert found[1].prefix != "old"


def test_a_port_in_use_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        for name, value in {"RANK": "0", "WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(InputError, match=rf"^run: ranks cannot meet at 127.0.0.1:{port}: the port is in use;"):
            meet(5.0)
