"""What one run of the profiler comes to: measurements, what was left out and why, and how steady it was."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from meshwright.executor.measure_hardware.journal import (
    CollectiveLaunched,
    Described,
    Interfered,
    Journal,
    Launched,
    Measured,
    Outcome,
    Skipped,
    Sustained,
    Uncaptured,
)
from meshwright.hardware_profiles.measurements import (
    MEASUREMENTS_SCHEMA_VERSION,
    LaunchSample,
    Machine,
    Measurements,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileOutcome:
    """`throttle`: the driver's bits while the GPU worked."""

    measurements: Measurements
    skipped: tuple[Skipped, ...]
    uncaptured: tuple[Uncaptured, ...]
    throttle: int
    journal: Journal


def collect(machine: Machine, journal: Journal, *, throttle: int = 0) -> ProfileOutcome:
    """Everything in the journal."""
    outcomes = [outcome for _, outcome in sorted(journal.outcomes.items())]
    return ProfileOutcome(
        measurements=measurements_of(journal.outcomes, machine),
        skipped=tuple(outcome for outcome in outcomes if isinstance(outcome, Skipped)),
        uncaptured=tuple(outcome for outcome in outcomes if isinstance(outcome, Uncaptured)),
        throttle=throttle,
        journal=journal,
    )


def measurements_of(found: Mapping[str, Outcome], machine: Machine) -> Measurements:
    """What was measured. Samples are in the order of their keys: the same survey gives the same file."""
    outcomes = [outcome for _, outcome in sorted(found.items())]
    return Measurements(
        schema_version=MEASUREMENTS_SCHEMA_VERSION,
        machine=machine,
        samples=tuple(outcome.sample for outcome in outcomes if isinstance(outcome, Measured)),
        interference=tuple(outcome.sample for outcome in outcomes if isinstance(outcome, Interfered)),
        launch=_launch(outcomes),
        sustained=next((outcome.sample for outcome in outcomes if isinstance(outcome, Sustained)), None),
    )


def machine_of(found: Mapping[str, Outcome]) -> Machine | None:
    """The machine at work, where a run came so far."""
    return next((outcome.machine for outcome in found.values() if isinstance(outcome, Described)), None)


def _launch(outcomes: Iterable[Outcome]) -> LaunchSample | None:
    kept = tuple(outcomes)
    found = [outcome.sample for outcome in kept if isinstance(outcome, Launched)]
    collective = [outcome.time_s for outcome in kept if isinstance(outcome, CollectiveLaunched)]
    if not found:
        return None
    return msgspec.structs.replace(found[-1], collective_eager_s=collective[-1] if collective else None)
