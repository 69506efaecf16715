"""All keys of `--set` and `--sweep` in the order in which changes are made, and how keys are written."""

from __future__ import annotations

from difflib import SequenceMatcher

from meshwright.costmodel.errors import InputError
from meshwright.planner.change import OPTION, Change
from meshwright.planner.changes.cluster import CLUSTER_CHANGES
from meshwright.planner.changes.model import MODEL_CHANGES
from meshwright.planner.changes.runtime import RUNTIME_CHANGES
from meshwright.planner.changes.strategy import STRATEGY_CHANGES
from meshwright.planner.changes.workload import WORKLOAD_CHANGES
from meshwright.planner.circumstance_changes import CIRCUMSTANCE_CHANGES

CHANGES: dict[str, Change] = (
    CLUSTER_CHANGES | MODEL_CHANGES | WORKLOAD_CHANGES | STRATEGY_CHANGES | RUNTIME_CHANGES | CIRCUMSTANCE_CHANGES
)
"""Every key, in the order in which changes are made: a GPU or a runtime first, then what differs from it."""

SHORT = {key.rpartition(".")[2]: key for key in CHANGES}
"""Keys without their section; each stands for one key only."""

ALIKE, NEARLY, MAX_SUGGESTED = 0.5, 0.12, 3

assert len(SHORT) == len(CHANGES)  # a new key needs a name of its own, whatever its section


def parse_changes(texts: tuple[str, ...], option: str = OPTION) -> dict[str, str]:
    """Full keys to values as typed. A key may leave out its section, as in seq_len."""
    values: dict[str, str] = {}
    for text in texts:
        key, separator, value = (part.strip() for part in text.partition("="))
        if not separator or not value:
            raise InputError(option, text, "expected key=value, for example workload.seq_len=16384")
        full = full_key(key, option)
        if full in values:
            raise InputError(option, key, "is given twice")
        values[full] = value
    return values


def full_key(key: str, option: str = OPTION) -> str:
    """A key with its section; an `InputError` names the nearest key."""
    if key in CHANGES:
        return key
    if key in SHORT:
        return SHORT[key]
    near = _nearest(key)
    hint = f"did you mean {' or '.join(near)}?" if near else f"expected one of {', '.join(CHANGES)}"
    raise InputError(option, key, f"unknown key; {hint}")


def _nearest(key: str) -> tuple[str, ...]:
    """The key that looks most like this one, and what looks nearly as much like it; none where nothing does."""
    alike = {name: SequenceMatcher(None, key.lower(), name).ratio() for name in (*CHANGES, *SHORT)}
    best = max(alike.values())
    if best < ALIKE:
        return ()
    near = sorted((name for name in alike if alike[name] >= best - NEARLY), key=lambda name: -alike[name])
    return tuple(dict.fromkeys(SHORT.get(name, name) for name in near))[:MAX_SUGGESTED]
