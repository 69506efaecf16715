"""Plans as configurations of other frameworks."""

from __future__ import annotations

from meshwright.planner.foreign.export.export import EXPORTERS, Export, export

__all__ = ["EXPORTERS", "Export", "export"]
