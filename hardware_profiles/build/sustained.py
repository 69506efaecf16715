"""What the power limit takes from products and attention in a step, from a layer measured in bursts and for seconds."""

from __future__ import annotations

import msgspec

from meshwright.costmodel.hardware import HardwareProfile
from meshwright.costmodel.program.operators import MemoryWork
from meshwright.costmodel.tables import Citation, Provenance
from meshwright.hardware_profiles.measurements import SustainedSample

DIGITS = 4


def with_sustained_slowdown(
    profile: HardwareProfile, measured: SustainedSample | None, provenance: Provenance
) -> HardwareProfile:
    """The profile with the measured slow-down and its citation; as it is where none was measured."""
    if measured is None:
        return profile
    citation = Citation(
        figure="sustained_slowdown",
        source=provenance.source,
        text=f"a dense layer's operators, forward and backward, in bursts and for seconds; {provenance.text}",
    )
    return msgspec.structs.replace(
        profile, sustained_slowdown=sustained_slowdown(measured), citations=(citation, *profile.citations)
    )


def sustained_slowdown(measured: SustainedSample) -> float:
    """Seconds together, less those of memory-bound operators, over the seconds of the others alone; at least 1.

    Memory-bound operators keep their pace at lower clocks, so all that is lost is lost by the others.
    """
    pairs = list(zip(measured.works, measured.alone_s, strict=True))
    memory_s = sum(time_s for work, time_s in pairs if isinstance(work, MemoryWork))
    others_s = sum(time_s for work, time_s in pairs if not isinstance(work, MemoryWork))
    return round(max(1.0, (measured.together_s - memory_s) / others_s), DIGITS)
