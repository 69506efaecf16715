"""Meshwright plans, simulates and explains the parallel training of large transformers.

From Python:

    from pathlib import Path

    import meshwright

    plan = meshwright.read_plan(Path("plan.json"))
    meshwright.what_if(plan, ("cluster.network_bytes_per_s=2x",)).prediction.step_time_s
    meshwright.sweep(plan, {"cluster.network_bytes_per_s": [25e9, 50e9, "800 Gbit/s"]}).to_dataframe()

The layers are `meshwright.costmodel`, `meshwright.hardware_profiles` and `meshwright.planner`; each imports only those
before it. Importing this package loads none of them; the names above load what they need when they are used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meshwright.planner.codesign import codesign
    from meshwright.planner.serialise import read_plan
    from meshwright.planner.sweep import sweep
    from meshwright.planner.what_if import what_if

__version__ = "0.1.0"

__all__ = ["__version__", "codesign", "read_plan", "sweep", "what_if"]

_PLACES = {
    "codesign": "meshwright.planner.codesign",
    "read_plan": "meshwright.planner.serialise",
    "sweep": "meshwright.planner.sweep",
    "what_if": "meshwright.planner.what_if",
}
"""Where the public functions live."""


def __getattr__(name: str) -> Any:  # noqa: ANN401  PEP 562
    """A public function, whose module is imported when it is first asked for."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(_PLACES[name]), name)
    globals()[name] = found
    return found
