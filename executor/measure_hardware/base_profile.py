"""Which shipped profile a GPU's data sheet is taken from."""

from __future__ import annotations

from meshwright.costmodel.errors import InputError
from meshwright.costmodel.hardware import HardwareProfile
from meshwright.hardware_profiles import load_profile, profile_names

NAMES = (("H200", "h200"), ("H800", "h800"), ("H20", "h20"), ("A100", "a100"), ("H100", "h100"))
"""Words of the driver's name for a GPU, the more special ones first."""


def base_profile(gpu_name: str, chosen: str | None = None) -> HardwareProfile:
    """The profile that a new one starts from: `chosen`, or that of the same GPU."""
    if chosen is not None:
        return load_profile(chosen)
    for word, name in NAMES:
        if word in gpu_name:
            return load_profile("h100-hbm2e" if name == "h100" and "PCIe" in gpu_name else name)
    known = ", ".join(profile_names())
    raise InputError("--base", "", f"no shipped profile is of {gpu_name!r}; name the nearest of {known}")
