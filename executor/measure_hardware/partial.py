"""What an interrupted run left, as measurements: a profile can be built where the machine is gone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from meshwright.costmodel.errors import ProfileError
from meshwright.executor.measure_hardware.journal import (
    PARTIAL_SUFFIX,
    Header,
    Interfered,
    Launched,
    Line,
    Measured,
    Outcome,
    Sustained,
)
from meshwright.executor.measure_hardware.outcome import machine_of, measurements_of
from meshwright.hardware_profiles.measurements import Measurements

TAKEN = (Measured, Interfered, Launched, Sustained)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartialRun:
    """Measurements marked as incomplete; `num_results` of `num_samples` were taken (0: the file does not say).

    Both count samples of operators, pairs of interference, launches and the layer that runs for seconds.
    """

    measurements: Measurements
    num_results: int
    num_samples: int


def is_partial(path: Path) -> bool:
    """Whether the file is what an interrupted run leaves, by its name."""
    return path.name.endswith(PARTIAL_SUFFIX)


def load_partial(path: Path) -> PartialRun:
    """Every whole line of the file; a `ProfileError` where it is none or has no sample yet."""
    try:
        header, *lines = path.read_bytes().split(b"\n")
        head = msgspec.json.decode(header, type=Header)
    except (OSError, msgspec.MsgspecError) as problem:
        raise ProfileError(str(path), "", f"cannot be read: {problem}") from problem
    found: dict[str, Outcome] = {}
    for number, text in enumerate(lines[:-1], start=2):  # the last one is empty, or was cut off
        try:
            line = msgspec.json.decode(text, type=Line)
        except msgspec.MsgspecError as problem:
            raise ProfileError(str(path), f"line {number}", str(problem)) from problem
        found[line.key] = line.outcome
    machine = machine_of(found)
    if machine is None:
        raise ProfileError(str(path), "", "was interrupted before the first sample; expected at least one")
    measurements = msgspec.structs.replace(measurements_of(found, machine), complete=False)
    num_results = sum(isinstance(outcome, TAKEN) for outcome in found.values())
    return PartialRun(measurements=measurements, num_results=num_results, num_samples=head.num_samples)
