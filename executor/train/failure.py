"""How a run has failed: which rank, where it was, and where the others were."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path

import msgspec

from meshwright.costmodel.errors import InputError, MeshwrightError
from meshwright.costmodel.value import Value
from meshwright.executor.observe.whereabouts import Outcome, Position, others_words, read_position
from meshwright.executor.train.record import RUN_FILE, RunRecord
from meshwright.executor.train.stopping import STOPPED_STATUSES
from meshwright.executor.train.supervision import read_reason
from meshwright.planner.serialise import write_whole


class RankEnd(Value, frozen=True, kw_only=True):
    """A rank's process that has ended: its exit status, or the number of the signal that killed it, negative."""

    rank: int
    status: int


class FailureRecord(Value, frozen=True, kw_only=True):
    """What `run.json` has of a run that has failed: the message, the rank that failed, where every rank was.

    Whoever has started all ranks knows where they were; a rank that speaks for itself leaves that out.
    """

    failed: str
    rank: int
    status: int
    positions: tuple[Position, ...] = ()


class RankError(MeshwrightError):
    """A rank has ended early; the others were ended. `is_input_error`: it has found bad input, as the message says."""

    def __init__(self, record: FailureRecord, *, is_input_error: bool = False) -> None:
        super().__init__(f"{'error' if is_input_error else 'run'}: {record.failed}")
        self.record = record
        self.exit_status = record.status if record.status > 0 else 1


def described_failure(ends: Sequence[RankEnd], whereabouts: Path, num_ranks: int) -> RankError:
    """From how ranks have ended, the first one first, and what they have left in `whereabouts`."""
    positions = tuple(_position(whereabouts / str(rank)) for rank in range(num_ranks))
    cause = _cause(ends, positions)
    others = others_words([(rank, at) for rank, at in enumerate(positions) if rank != cause.rank])
    at = positions[cause.rank]
    reason = read_reason(whereabouts, cause.rank)
    if at.outcome is Outcome.HUNG:
        text = f"no rank gets on (--timeout): {others_words(list(enumerate(positions)))}"
    elif reason:
        text = reason.removeprefix("run: ")
    elif cause.status < 0:
        text = f"rank {cause.rank} died ({_signal_words(-cause.status)}) in {at}; {others}"
    else:
        text = f"rank {cause.rank} ended with status {cause.status} in {at}; the other ranks were ended"
    record = FailureRecord(failed=text, rank=cause.rank, status=cause.status, positions=positions)
    return RankError(record, is_input_error=bool(reason) and cause.status == InputError.exit_status)


def _signal_words(number: int) -> str:
    """A signal; what most often sends the one that names no reason.

    >>> _signal_words(9), _signal_words(11)
    ("signal 9: often the host's memory ran out", 'signal 11')
    """
    why = ": often the host's memory ran out" if number == signal.SIGKILL else ""
    return f"signal {int(number)}{why}"


def _cause(ends: Sequence[RankEnd], positions: Sequence[Position]) -> RankEnd:
    """The first that died, waited for too long, or failed for a reason of its own; else the first that failed."""
    failed = [end for end in ends if end.status]

    def weight(end: RankEnd) -> int:
        if end.status < 0:
            return 2 if -end.status == signal.SIGABRT else 0  # NCCL aborts ranks that have lost others
        return {Outcome.HUNG: 1, None: 3, Outcome.LOST: 4}[positions[end.rank].outcome]

    stopped = [end for end in failed if end.status in STOPPED_STATUSES]
    return min(stopped or failed, key=weight)


def _position(file: Path) -> Position:
    """A rank that has failed before it began has left none."""
    return read_position(file) if file.is_file() else Position(place="", doing="", waits=False)


def write_failure(record: FailureRecord, folder: Path) -> None:
    """Write `run.json`, unless a summary is there: of this run, or of one whose steps are still beside it."""
    try:
        msgspec.json.decode((folder / RUN_FILE).read_bytes(), type=RunRecord)
    except (OSError, msgspec.MsgspecError):
        pass
    else:
        return
    write_whole(msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n", folder / RUN_FILE)
