"""What has been measured so far, line by line in a file, so that an interrupted run goes on where it stopped.

The first line says on which machine and for which survey; every other line is one finished piece of work under its key.
A profile can be built from it even where the run never goes on (`partial.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import msgspec

from meshwright.costmodel.value import Value
from meshwright.executor.measure_hardware.files import replace_file
from meshwright.hardware_profiles.measurements import (
    InterferenceSample,
    LaunchSample,
    Machine,
    Sample,
    SustainedSample,
)

PARTIAL_SUFFIX = ".partial.jsonl"


class Skipped(Value, frozen=True, kw_only=True, tag="skipped"):
    """Something that could not be measured, and why."""

    what: str
    reason: str


class Uncaptured(Value, frozen=True, kw_only=True, tag="uncaptured"):
    """A family whose kernels no CUDA graph takes: where they are short, the host's time is in what was measured."""

    what: str
    reason: str


class Measured(Value, frozen=True, kw_only=True, tag="measured"):
    """One sample."""

    sample: Sample


class Interfered(Value, frozen=True, kw_only=True, tag="interfered"):
    """One pair of computation and communication."""

    sample: InterferenceSample


class Launched(Value, frozen=True, kw_only=True, tag="launched"):
    """What launching costs."""

    sample: LaunchSample


class CollectiveLaunched(Value, frozen=True, kw_only=True, tag="collective_launched"):
    """Host seconds to launch a small collective."""

    time_s: float


class Sustained(Value, frozen=True, kw_only=True, tag="sustained"):
    """A layer's operators in bursts and for seconds."""

    sample: SustainedSample


class Described(Value, frozen=True, kw_only=True, tag="described"):
    """The machine, once its GPU was at work."""

    machine: Machine


Outcome: TypeAlias = (
    Described | Measured | Interfered | Launched | CollectiveLaunched | Sustained | Skipped | Uncaptured
)


class Line(Value, frozen=True, kw_only=True):
    """A line of the file."""

    key: str
    outcome: Outcome


class Header(Value, frozen=True, kw_only=True):
    """The first line. `num_samples`: how many a whole run takes; 0 where an earlier version did not say."""

    fingerprint: str
    num_samples: int = 0


class Journal:
    """The finished work of one run. `found` lines came from an earlier run; `stranger`: the file was of another one."""

    def __init__(self, path: Path, fingerprint: str, *, restart: bool, num_samples: int = 0) -> None:
        self.path = path
        self.outcomes: dict[str, Outcome] = {}
        self.stranger = False
        if path.exists() and not restart:
            self._read(fingerprint)
        self.found = len(self.outcomes)
        if not self.found:
            self._write_line(Header(fingerprint=fingerprint, num_samples=num_samples), mode="wb")

    def _read(self, fingerprint: str) -> None:
        """Every whole line; one that was cut off in writing is left out, and what was skipped, which is tried again.

        The file is replaced whole: a run that ends meanwhile loses nothing.
        """
        lines = self.path.read_bytes().split(b"\n")
        try:
            header = msgspec.json.decode(lines[0], type=Header)
        except msgspec.MsgspecError:
            self.stranger = True
            return
        if header.fingerprint != fingerprint:
            self.stranger = True
            return
        kept = lines[0] + b"\n"
        for text in lines[1:-1]:
            try:
                line = msgspec.json.decode(text, type=Line)
            except msgspec.MsgspecError:
                continue
            if not isinstance(line.outcome, Skipped):
                self.outcomes[line.key] = line.outcome
                kept += text + b"\n"
        replace_file(self.path, kept)

    def add(self, key: str, outcome: Outcome) -> None:
        """Keep it, in the file too."""
        self.outcomes[key] = outcome
        self._write_line(Line(key=key, outcome=outcome), mode="ab")

    def _write_line(self, value: Value, mode: str) -> None:
        with self.path.open(mode) as file:
            file.write(msgspec.json.encode(value) + b"\n")

    def __contains__(self, key: str) -> bool:
        return key in self.outcomes

    def finish(self) -> None:
        """The results are written: the file has served."""
        self.path.unlink(missing_ok=True)
