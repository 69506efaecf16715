"""Configurations of other frameworks: read, checked against their rules, predicted, compared with the best plan."""

from __future__ import annotations

from meshwright.planner.foreign.check import FRAMEWORKS, CheckRequest, CheckResult, check
from meshwright.planner.foreign.framework import Source

__all__ = ["FRAMEWORKS", "CheckRequest", "CheckResult", "Source", "check"]
