"""What one run of the profiler comes to: measurements, what was left out and why, and how steady it was."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from meshwright.executor.measure_hardware.journal import (
    CollectiveLaunched,
    Interfered,
    Journal,
    Launched,
    Measured,
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
    """Everything in the journal. Samples are in the order of their keys: the same survey gives the same file."""
    outcomes = [outcome for _, outcome in sorted(journal.outcomes.items())]
    measurements = Measurements(
        schema_version=MEASUREMENTS_SCHEMA_VERSION,
        machine=machine,
        samples=tuple(outcome.sample for outcome in outcomes if isinstance(outcome, Measured)),
        interference=tuple(outcome.sample for outcome in outcomes if isinstance(outcome, Interfered)),
        launch=_launch(journal),
        sustained=next((outcome.sample for outcome in outcomes if isinstance(outcome, Sustained)), None),
    )
    return ProfileOutcome(
        measurements=measurements,
        skipped=tuple(outcome for outcome in outcomes if isinstance(outcome, Skipped)),
        uncaptured=tuple(outcome for outcome in outcomes if isinstance(outcome, Uncaptured)),
        throttle=throttle,
        journal=journal,
    )


def _launch(journal: Journal) -> LaunchSample | None:
    found = [outcome.sample for outcome in journal.outcomes.values() if isinstance(outcome, Launched)]
    collective = [o.time_s for o in journal.outcomes.values() if isinstance(o, CollectiveLaunched)]
    if not found:
        return None
    return msgspec.structs.replace(found[-1], collective_eager_s=collective[-1] if collective else None)
