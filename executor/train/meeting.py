"""How the ranks of one start find each other, in a store that may still hold what earlier starts have left.

torchrun's agents keep their store when they start ranks again, where gloo would find the addresses of dead processes.
They start them together, but each counts the restarts for which its own ranks were the reason: no number is common to
all. So every rank leaves a word of its own, the first one publishes a part of the store to exactly these words, and
again whenever one of them changes, until all have answered.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import msgspec
from torch._C._distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from meshwright.costmodel.errors import InputError
from meshwright.costmodel.value import Value
from meshwright.planner.describe.section import ranges

RESTARTS = "TORCHELASTIC_RESTART_COUNT"
"""How often this rank's agent has started its ranks again because of one of them."""

ROUND = "meshwright/round"
LOOKS_AGAIN_S = 0.02


class Hello(Value, frozen=True, kw_only=True):
    """A rank's word, which no other process has, and how often its agent has restarted."""

    word: str
    restarts: int


class Round(Value, frozen=True, kw_only=True):
    """A part of the store, and the ranks whose it is."""

    prefix: str
    hellos: tuple[Hello, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Meeting:
    """What `init_process_group` needs, and the most restarts of any agent."""

    store: Store
    rank: int
    world_size: int
    restarts: int


def own_restarts() -> int:
    """Those of this rank's agent; 0 without one."""
    return int(os.environ.get(RESTARTS, "0"))


def meet(timeout_s: float) -> Meeting:
    """Wait for the other ranks that were started with this one; raises `InputError`."""
    where = f"{os.environ.get('MASTER_ADDR', '')}:{os.environ.get('MASTER_PORT', '')}"
    try:
        store, rank, world_size = next(rendezvous("env://", timeout=timedelta(seconds=timeout_s)))
        hello = Hello(word=uuid.uuid4().hex, restarts=own_restarts())
        found = agree(store, rank, world_size, hello, timeout_s)
    except RuntimeError as error:  # of torch's store
        raise InputError("run", "", f"ranks cannot meet at {where}: {_problem(str(error))}") from error
    except TimeoutError as error:
        raise InputError("run", "", f"ranks cannot meet at {where}: {error}") from error
    return Meeting(
        store=PrefixStore(found.prefix, store),
        rank=rank,
        world_size=world_size,
        restarts=max(one.restarts for one in found.hellos),
    )


def agree(store: Store, rank: int, world_size: int, hello: Hello, timeout_s: float) -> Round:
    """The round to which all ranks have answered; raises `TimeoutError` that names those that have not."""
    store.set(_hello_key(rank), msgspec.json.encode(hello).decode())
    if rank:
        return _until(lambda: _answered(store, rank, hello), timeout_s, lambda: "rank 0 has not called them")
    published: list[Round] = []

    def called() -> Round | None:
        hellos = _hellos(store, range(world_size))
        if len(hellos) < world_size:
            return None
        if not published or published[-1].hellos != hellos:
            published.append(Round(prefix=f"meshwright/{uuid.uuid4().hex}", hellos=hellos))
            store.set(ROUND, msgspec.json.encode(published[-1]).decode())
        found = published[-1]
        if not store.check([_answer_key(found, other) for other in range(1, world_size)]):
            return None
        store.set(_begin_key(found), "")
        return found

    def missing() -> str:
        key_of = partial(_answer_key, published[-1]) if published else _hello_key
        silent = [other for other in range(1, world_size) if not store.check([key_of(other)])]
        return f"ranks {ranges(silent)} have not come"

    return _until(called, timeout_s, missing)


def _answered(store: Store, rank: int, hello: Hello) -> Round | None:
    """Answer to a round that calls this very process; the round once all have."""
    if not store.check([ROUND]):
        return None
    found = msgspec.json.decode(store.get(ROUND), type=Round)
    if rank >= len(found.hellos) or found.hellos[rank] != hello:
        return None
    store.set(_answer_key(found, rank), "")
    return found if store.check([_begin_key(found)]) else None


def _until(look: Callable[[], Round | None], timeout_s: float, missing: Callable[[], str]) -> Round:
    deadline = time.monotonic() + timeout_s
    while (found := look()) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{missing()} within {timeout_s:g} s")
        time.sleep(LOOKS_AGAIN_S)
    return found


def _hellos(store: Store, ranks: Sequence[int]) -> tuple[Hello, ...]:
    there = [rank for rank in ranks if store.check([_hello_key(rank)])]
    return tuple(msgspec.json.decode(store.get(_hello_key(rank)), type=Hello) for rank in there)


def _hello_key(rank: int) -> str:
    return f"meshwright/hello/{rank}"


def _answer_key(found: Round, rank: int) -> str:
    return f"{found.prefix}/answer/{rank}"


def _begin_key(found: Round) -> str:
    return f"{found.prefix}/begin"


def _problem(text: str) -> str:
    if "EADDRINUSE" in text or "already in use" in text:
        return "the port is in use; take another (torchrun --rdzv-endpoint HOST:PORT)"
    return text.partition("\n")[0]
