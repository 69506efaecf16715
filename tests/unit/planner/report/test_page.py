from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest

from meshwright.costmodel.errors import InputError
from meshwright.planner.plan import Plan
from meshwright.planner.report import report_html, write_report
from meshwright.planner.report.page import CONTENTS
from meshwright.planner.serialise import plan_json

replace = msgspec.structs.replace


@pytest.fixture
def page(tiny_plan: Plan) -> str:
    return report_html(tiny_plan)


def test_it_needs_nothing_from_outside(page: str) -> None:
    assert "default-src &#x27;none&#x27;" in page
    assert not re.search(r"<link|<iframe|<img|@import|url\(", page)
    assert set(re.findall(r'(?:href|src)="([^"]*)"', page)) == {f"#{name}" for name, _ in CONTENTS}
    assert not re.search(r"<script[^>]*\ssrc=", page)


def test_every_link_of_the_contents_leads_to_a_section(page: str) -> None:
    assert set(re.findall(r'<section id="([^"]+)"', page)) == {name for name, _ in CONTENTS}


def test_every_colour_that_is_used_is_defined(page: str) -> None:
    used = set(re.findall(r"var\(--([a-z0-9_-]+)\)", page))
    assert used <= set(re.findall(r"--([a-z0-9_-]+):", page))


def test_the_same_plan_gives_the_same_page(tiny_plan: Plan, page: str) -> None:
    assert report_html(tiny_plan) == page


def test_every_number_of_the_prediction_is_shown(tiny_plan: Plan, page: str) -> None:
    """All of the plan's prediction but parts of the step that are too small to be seen."""
    prediction = json.loads(plan_json(tiny_plan))["prediction"]
    shown = set(re.findall(r'data-path="prediction\.([^"]+)"', page))
    flat = {
        f"{name}.{key}" if isinstance(value, dict | list) else name
        for name, value in prediction.items()
        if name != "memory"
        for key in (value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else [""])
    }
    hidden = {path for path in flat - shown if _at(prediction, path) != 0.0}
    assert all(path.startswith("breakdown_s") and abs(_at(prediction, path)) < 1e-6 for path in hidden), hidden


def _at(value: object, path: str) -> float:
    for key in path.split("."):
        value = value[int(key)] if isinstance(value, list) else value[key]  # type: ignore[index]  # JSON
    assert isinstance(value, int | float)
    return value


def test_a_plan_that_is_predicted_otherwise_today_says_so(tiny_plan: Plan, page: str) -> None:
    assert "predicted again" not in page
    other = replace(tiny_plan, prediction=replace(tiny_plan.prediction, step_time_s=1.0))
    assert "not the 1.0000\N{NO-BREAK SPACE}s of the plan" in report_html(other)


def test_a_plan_of_another_profile_says_so(tiny_plan: Plan) -> None:
    other = replace(tiny_plan, cluster=replace(tiny_plan.cluster, profile_hash="0" * 64))
    assert "Note: the profile h100 changed since this plan was made." in report_html(other)


def test_without_runners_up_the_page_says_so(tiny_plan: Plan) -> None:
    assert "made without runners-up" in report_html(replace(tiny_plan, alternatives=()))


def test_what_cannot_be_written_is_refused_and_leaves_nothing(tiny_plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="it is a directory"):
        write_report(tiny_plan, tmp_path)
    assert list(tmp_path.iterdir()) == []
