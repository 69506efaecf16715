"""Measures GPUs, links and host: what `meshwright profile` runs. Its survey is data and needs no torch."""

from __future__ import annotations

from meshwright.executor.measure_hardware.entry import Entry, Extent, InterferenceEntry, Survey
from meshwright.executor.measure_hardware.request import ProfileRequest
from meshwright.executor.measure_hardware.survey import build_survey

__all__ = ["Entry", "Extent", "InterferenceEntry", "ProfileRequest", "Survey", "build_survey"]
