"""Where a rank is: step, pass, operator. In memory, and in a small file where somebody else is to read it.

Written at every operator, so that a write is two slices of mapped memory and no more; what is there stays when the
process is killed.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from enum import StrEnum
from functools import lru_cache
from pathlib import Path

from meshwright.costmodel.program.operators import CollectiveWork, MemoryKernel, MemoryWork, Operator
from meshwright.costmodel.value import Value
from meshwright.executor.observe.spans import PassAt

WIDTH = 192
"""Bytes of each text; longer ones are cut."""

PLACE, DOING, DEVICE, OUTCOME = range(4)
WAITING, WORKING = b"w", b" "
SIZE = 4 * WIDTH


class Outcome(StrEnum):
    """How a rank ended, if it had the time to say so. LOST: others did not answer; HUNG: they did not come."""

    LOST = "lost"
    HUNG = "hung"


class Position(Value, frozen=True, kw_only=True):
    """Where a rank was last: `place` (step and pass), what it was `doing`, whether that `waits` for others.

    `device`: what the device was in, where the host had gone on.
    """

    place: str
    doing: str
    waits: bool
    device: str = ""
    outcome: Outcome | None = None

    def __str__(self) -> str:
        return self.device or ", ".join(filter(None, (self.place, self.doing))) or "the start"


class Whereabouts:
    """Written by the rank; `path`: the file, if there is one. `moves` counts what it has begun."""

    def __init__(self, path: Path | None = None) -> None:
        self.moves = 0
        self.waits = False
        self._step = 0
        self._memory = bytearray(SIZE) if path is None else _mapped(path)

    def enter_step(self, step: int) -> None:
        """A step begins."""
        self._step = step
        self.do("", waits=False)

    def enter(self, within: PassAt) -> None:
        """A pass begins."""
        self._write(PLACE, _padded(f"step {self._step}, {pass_words(within)}"))

    def operator(self, operator: Operator) -> None:
        """An operator of the pass begins."""
        self.moves += 1
        self.waits = waits_for_ranks(operator)
        self._write(DOING, _operator_bytes(operator.name, self.waits, _collective(operator)))

    def do(self, what: str, *, waits: bool) -> None:
        """Something else of the step begins; `waits`: for other ranks."""
        self.moves += 1
        self.waits = waits
        self._write(PLACE, _padded(f"step {self._step}"))
        self._write(DOING, _padded(what, WAITING if waits else WORKING))

    def set_device(self, what: str) -> None:
        """What the device is in; nothing while it follows the host."""
        self._write(DEVICE, _padded(f"step {self._step}, {what}" if what else ""))

    def end(self, outcome: Outcome) -> None:
        """How the rank ends."""
        self._write(OUTCOME, _padded(outcome.value))

    @property
    def position(self) -> Position:
        """Where it is."""
        return _position(bytes(self._memory))

    def _write(self, field: int, text: bytes) -> None:
        self._memory[field * WIDTH : (field + 1) * WIDTH] = text


def read_position(path: Path) -> Position:
    """What the rank that writes a file has written last."""
    return _position(path.read_bytes())


def pass_words(within: PassAt) -> str:
    """A pass in words.

    >>> from meshwright.costmodel.order.launch_order import PassKind
    >>> pass_words(PassAt(title="layer 3", kind=PassKind.FORWARD, micro_batch=1))
    'layer 3 forward of micro-batch 1'
    """
    return f"{within.title} {within.kind.value} of micro-batch {within.micro_batch}"


def operator_words(operator: Operator) -> str:
    """An operator in words: a collective with what it is."""
    return _words(operator.name, _collective(operator))


def others_words(positions: Sequence[tuple[int, Position]]) -> str:
    """Where ranks are, those at one place together.

    >>> at = Position(place="step 2, head forward of micro-batch 0", doing="all-reduce norm", waits=True)
    >>> others_words([(0, at), (3, at)])
    'ranks 0, 3 waited in step 2, head forward of micro-batch 0, all-reduce norm'
    """
    found: dict[str, list[int]] = {}
    for rank, position in positions:
        how = "waited" if position.waits or position.device else "was" if position.place else "stayed"
        found.setdefault(f"{how} in {position}", []).append(rank)
    return "; ".join(
        f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))} {where}" for where, ranks in found.items()
    )


def waits_for_ranks(operator: Operator) -> bool:
    """Whether it may wait for other ranks: the router tells them how many rows will come."""
    if isinstance(operator.work, MemoryWork) and operator.work.kernel is MemoryKernel.ROUTER:
        return not operator.work.backward
    return operator.is_communication


def _collective(operator: Operator) -> str:
    return operator.work.collective.value if isinstance(operator.work, CollectiveWork) else ""


def _words(name: str, collective: str) -> str:
    kind = collective.replace("_", "-")
    return f"{kind} {name}" if kind and not name.startswith(collective) else name


@lru_cache(maxsize=4096)
def _operator_bytes(name: str, waits: bool, collective: str) -> bytes:
    return _padded(_words(name, collective), WAITING if waits else WORKING)


def _padded(text: str, flag: bytes = WORKING) -> bytes:
    return (flag + text.encode())[:WIDTH].ljust(WIDTH, b"\0")


def _mapped(path: Path) -> mmap.mmap:
    path.write_bytes(bytes(SIZE))
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), SIZE)


def _position(content: bytes) -> Position:
    fields = [content[field * WIDTH : (field + 1) * WIDTH].rstrip(b"\0") for field in range(4)]
    place, doing, device, outcome = (field[1:].decode(errors="replace") for field in fields)
    return Position(
        place=place,
        doing=doing,
        waits=fields[DOING][:1] == WAITING,
        device=device,
        outcome=Outcome(outcome) if outcome else None,
    )
