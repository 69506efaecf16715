"""Measurements with the profile that is built from them: the shipped ones, or a user's."""

from __future__ import annotations

from pathlib import Path

from meshwright.costmodel.hardware import HardwareProfile
from meshwright.costmodel.value import Value
from meshwright.hardware_profiles import load_profile
from meshwright.hardware_profiles.build import build_profile
from meshwright.hardware_profiles.measurements import (
    DRAWN_ANEW_FOLDER,
    MEASUREMENTS_FOLDER,
    Measurements,
    load_measurements,
)
from meshwright.planner.validation.operators.held_apart import held_apart_errors
from meshwright.planner.validation.operators.summary import OperatorErrors


class MeasuredErrors(Value, frozen=True, kw_only=True):
    """What was measured, where, and the errors of its profile on the samples that were kept apart."""

    name: str
    machine: str
    date: str
    errors: tuple[OperatorErrors, ...]


def shipped_errors() -> tuple[MeasuredErrors, ...]:
    """Errors of each shipped profile with measurements of its own, and on shapes that were drawn after it was made."""
    own = ((path, "") for path in sorted(MEASUREMENTS_FOLDER.glob("*.json")))
    later = ((path, ", drawn anew") for path in sorted(DRAWN_ANEW_FOLDER.glob("*.json")))
    return tuple(
        _errors(path.stem, load_measurements(path), load_profile(path.stem), note) for path, note in (*own, *later)
    )


def own_errors(path: Path, base: str) -> MeasuredErrors:
    """Errors of the profile that a measurements file gives; `base` names the shipped profile of the same GPU."""
    measurements = load_measurements(path)
    return _errors(path.stem, measurements, build_profile(measurements, base=load_profile(base)))


def _errors(name: str, measurements: Measurements, profile: HardwareProfile, note: str = "") -> MeasuredErrors:
    machine = measurements.machine
    return MeasuredErrors(
        name=name,
        machine=f"{machine.num_gpus} x {machine.gpu}{note}",
        date=machine.date,
        errors=held_apart_errors(measurements, profile),
    )
