"""From measurements to a hardware profile: tables by a fixed rule each, nothing fitted by hand."""

from __future__ import annotations

from meshwright.hardware_profiles.build.profile import build_profile

__all__ = ["build_profile"]
