"""Hardware as data: profiles of GPUs with the source of every figure, cluster presets, and their loader."""

from __future__ import annotations

from meshwright.hardware_profiles.cluster_loader import load_cluster, preset_names
from meshwright.hardware_profiles.profile_loader import load_profile, profile_names

__all__ = ["load_cluster", "load_profile", "preset_names", "profile_names"]
