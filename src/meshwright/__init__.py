"""Meshwright plans, simulates and explains the parallel training of large transformers.

The layers are `meshwright.costmodel`, `meshwright.hardware_profiles` and `meshwright.planner`; each imports only those
before it. Importing this package loads none of them.
"""

from __future__ import annotations

__version__ = "0.1.0"

__all__ = ["__version__"]
