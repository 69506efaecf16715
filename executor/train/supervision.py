"""Whether somebody on this host watches over the ranks and speaks for them when one fails."""

from __future__ import annotations

import os
from pathlib import Path

from meshwright.executor.observe.whereabouts import Whereabouts

WHEREABOUTS = "MESHWRIGHT_WHEREABOUTS"
"""The folder in which whoever has started the ranks of this host reads where they are."""


def is_supervised() -> bool:
    """Whether whoever has started this rank says for all ranks where they were when one fails."""
    return WHEREABOUTS in os.environ


def rank_whereabouts(rank: int) -> Whereabouts:
    """Where this rank is: in a file, if somebody is to read it."""
    return Whereabouts(Path(os.environ[WHEREABOUTS]) / str(rank) if is_supervised() else None)
