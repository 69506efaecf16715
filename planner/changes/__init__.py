"""The fields that `--set` and `--sweep` can change, one module for each section of keys."""

from __future__ import annotations

from meshwright.planner.change import OPTION, Change
from meshwright.planner.changes.register import CHANGES, full_key, parse_changes

__all__ = ["CHANGES", "OPTION", "Change", "full_key", "parse_changes"]
