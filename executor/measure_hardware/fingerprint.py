"""What must be the same for an interrupted run to go on: figures of different machines or surveys are never mixed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from meshwright.executor.measure_hardware.entry import Survey
from meshwright.hardware_profiles.measurements import Machine

SURVEY_VERSION = 2
"""Of how entries are measured; which there are is in the survey's own digest."""

OF_THE_MOMENT = frozenset(
    (
        "usable_memory_bytes",
        "sm_clock_mhz",
        "memory_clock_mhz",
        "power_w",
        "temperature_celsius",
        "date",
        "command",
        "mean_clock_hz",
    )
)
"""Fields of `Machine` that differ from run to run on one machine."""


def fingerprint(machine: Machine, gpus: Sequence[str], survey: Survey, kernels: str) -> str:
    """`gpus`: the numbers that GPUs have for good; `kernels`: the sources of custom kernels, empty where none run."""
    facts = [f"{field} {getattr(machine, field)}" for field in Machine.__struct_fields__ if field not in OF_THE_MOMENT]
    entries = hashlib.sha256(msgspec.json.encode(survey, order="deterministic")).hexdigest()
    ours = [f"GPUs {' '.join(gpus)}", f"kernels {kernels}", f"survey {SURVEY_VERSION} {survey.extent} {entries[:16]}"]
    return "; ".join((*facts, *ours))
