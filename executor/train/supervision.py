"""Whether somebody on this host watches over the ranks and speaks for them when one fails."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

from meshwright.costmodel.errors import MeshwrightError
from meshwright.executor.observe.whereabouts import Whereabouts

WHEREABOUTS = "MESHWRIGHT_WHEREABOUTS"
"""The folder in which whoever has started the ranks of this host reads where they are, and why they have failed."""


def is_supervised() -> bool:
    """Whether whoever has started this rank says for all ranks where they were when one fails."""
    return WHEREABOUTS in os.environ


def rank_whereabouts(rank: int) -> Whereabouts:
    """Where this rank is: in a file, if somebody is to read it."""
    return Whereabouts(Path(os.environ[WHEREABOUTS]) / str(rank) if is_supervised() else None)


def leave_reason(rank: int, reason: MeshwrightError | str) -> None:
    """Leave why this rank fails, or what it has saved, to whoever has started it: only a supervised rank may."""
    _reason_file(Path(os.environ[WHEREABOUTS]), rank).write_text(" ".join(str(reason).split()), encoding="utf-8")


def leave_process(status: int) -> NoReturn:
    """End this process with a status that whoever has started it can rely on.

    Nothing is torn down: threads of gloo and of NCCL that are still at work would abort the process instead.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def read_reason(whereabouts: Path, rank: int) -> str:
    """Why a rank says that it has failed; empty where it has left no reason."""
    file = _reason_file(whereabouts, rank)
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def _reason_file(whereabouts: Path, rank: int) -> Path:
    return whereabouts / f"{rank}.reason"
