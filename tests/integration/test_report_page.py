"""The report as a reader has it: in a browser."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from meshwright.cli import main
from meshwright.planner.plan import Plan
from meshwright.planner.report import write_report
from meshwright.planner.serialise import plan_json, write_plan

if TYPE_CHECKING:
    from tests.integration.conftest import Page

CHART = '[data-chart="pipeline"]'
LAYER_CHART = '[data-chart="layer-0-forward"]'


@pytest.fixture
def report(tiny_plan: Plan, tmp_path: Path) -> Path:
    """The page of the tiny plan, made by the command."""
    write_plan(tiny_plan, tmp_path / "plan.json")
    assert main(["report", str(tmp_path / "plan.json"), "-o", str(tmp_path / "report.html")]) == 0
    return tmp_path / "report.html"


@pytest.fixture
def page(report: Path, open_page: Callable[..., Page]) -> Page:
    return open_page(report)


def _shown(page: Page, chart: str = CHART) -> tuple[float, float]:
    data = page.evaluate(f"({{...document.querySelector('{chart}').dataset}})")
    return float(data["from"]), float(data["to"])


def _pixels(page: Page, chart: str = CHART) -> str:
    picture = page.evaluate(f"document.querySelector('{chart} canvas').toDataURL()")
    assert isinstance(picture, str)
    return picture


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_renders_without_a_complaint_or_a_request(
    report: Path, open_page: Callable[..., Page], width: int, dark: bool
) -> None:
    page = open_page(report, width=width, dark=dark)
    assert page.evaluate("'ready' in document.documentElement.dataset")
    assert page.problems == []
    assert page.requests == [report.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.querySelectorAll('.time-chart').length") >= 3


def test_a_complaint_would_be_seen(tmp_path: Path, open_page: Callable[..., Page]) -> None:
    """The checks of the test above can fail: here everything is wrong that may be."""
    path = tmp_path / "bad.html"
    path.write_text("<img src='http://localhost:9/x.png'><script>console.error('no'); undefinedFunction()</script>")
    page = open_page(path)
    told = json.dumps(page.problems)
    assert "no" in told
    assert "undefinedFunction" in told
    assert "http://localhost:9/x.png" in page.requests


def test_the_page_forbids_requests(report: Path, open_page: Callable[..., Page]) -> None:
    page = open_page(report)
    assert page.evaluate("fetch('http://localhost:9/').then(() => 'sent', () => 'refused')") == "refused"
    assert "Content Security Policy" in json.dumps(page.problems)


def _at(value: Any, path: str) -> Any:  # noqa: ANN401  whatever plan.json holds
    for key in path.split("."):
        value = value[int(key)] if isinstance(value, list) else value[key]
    return value


def test_its_numbers_are_those_of_the_plan(page: Page, tiny_plan: Plan) -> None:
    """Every figure on the page has its place in plan.json and its exact value; what is shown rounds that value."""
    plan = json.loads(plan_json(tiny_plan))
    figures = page.evaluate(
        "[...document.querySelectorAll('data[data-path]')].map((e) => [e.dataset.path, e.value, e.textContent])"
    )
    paths = {path for path, _, _ in figures}
    assert paths >= {f"prediction.{name}" for name in ("step_time_s", "tokens_per_s", "mfu", "tflops_per_gpu")}
    assert paths >= {f"prediction.memory.{stage}.activations" for stage in range(tiny_plan.mesh.pp)}
    assert paths >= {"search.gap", "search.lower_bound_s", "search.candidates", "alternatives.0.step_time_s"}
    for path, value, shown in figures:
        exact = _at(plan, path)
        assert float(value) == exact, path
        assert _rounds(shown, exact), f"{path}: {shown} is not {exact}"


SCALES = {"%": 100.0, "ms": 1e3, "GiB": 2.0**-30, "GFLOP": 1e-9}


def _rounds(shown: str, exact: float) -> bool:
    """Whether a text is a value to within half of its last digit, in its unit or in one of the usual ones."""
    match = re.match(r"([+-]?[\d,]+(?:\.(\d+))?)\s*(%|ms|GiB|GFLOP)?", shown)
    assert match, shown
    half = 0.5001 * 10.0 ** -len(match[2] or "")
    scales = [SCALES[match[3]]] if match[3] else [1.0, *SCALES.values()]
    return any(abs(float(match[1].replace(",", "")) - exact * scale) <= half for scale in scales)


def test_the_plan_is_inside(page: Page, tiny_plan: Plan) -> None:
    embedded = page.evaluate("JSON.parse(document.getElementById('report-data').textContent).plan")
    assert embedded == json.loads(plan_json(tiny_plan))


def test_the_pipeline_fills_the_step(page: Page, tiny_plan: Plan) -> None:
    chart = page.evaluate("JSON.parse(document.getElementById('report-data').textContent).charts.pipeline")
    assert chart["end_s"] == tiny_plan.prediction.step_time_s
    last_s = max(slice_[1] for row in chart["rows"] for slice_ in row["slices"])
    assert last_s == pytest.approx(tiny_plan.prediction.step_time_s, abs=1e-9)
    assert _shown(page) == (0.0, tiny_plan.prediction.step_time_s)


def test_buttons_zoom_in_and_out(page: Page) -> None:
    whole, picture = _shown(page), _pixels(page)
    page.click(f"{CHART} [data-zoom='in']")
    zoomed = _shown(page)
    assert whole[0] < zoomed[0] < zoomed[1] < whole[1]
    assert _pixels(page) != picture
    page.click(f"{CHART} [data-zoom='reset']")
    assert _shown(page) == whole
    assert _pixels(page) == picture
    assert page.evaluate(f"document.querySelector(\"{CHART.replace(chr(34), chr(39))} [data-zoom='out']\").disabled")


def test_the_wheel_zooms_where_it_points_and_dragging_moves(page: Page) -> None:
    x, y = page.center(f"{CHART} canvas")
    page.mouse("mouseWheel", x, y, deltaX=0, deltaY=-400, modifiers=2)
    page.settle()
    zoomed = _shown(page)
    assert zoomed[1] - zoomed[0] < 0.5 * float(page.evaluate("report.charts.pipeline.end_s"))
    page.mouse("mousePressed", x, y, button="left", buttons=1)
    page.mouse("mouseMoved", x - 100, y, button="left", buttons=1)
    page.mouse("mouseReleased", x - 100, y, button="left")
    page.settle()
    moved = _shown(page)
    assert moved[0] > zoomed[0]
    assert moved[1] - moved[0] == pytest.approx(zoomed[1] - zoomed[0])


def test_a_plain_wheel_scrolls_the_page(page: Page) -> None:
    whole = _shown(page)
    x, y = page.center(f"{CHART} canvas")
    page.mouse("mouseWheel", x, y, deltaX=0, deltaY=200)
    page.settle()
    assert _shown(page) == whole


def test_keys_zoom_the_chart_that_has_the_focus(page: Page) -> None:
    page.evaluate(f"document.querySelector('{LAYER_CHART}').focus()")
    whole, other = _shown(page, LAYER_CHART), _shown(page)
    for key in ("+", "+", "ArrowRight"):
        page.press(key)
    assert _shown(page, LAYER_CHART)[0] > whole[0]
    assert _shown(page) == other
    page.press("0")
    assert _shown(page, LAYER_CHART) == whole


def test_the_pointer_is_told_what_it_is_on(page: Page) -> None:
    page.center(f"{CHART} canvas")
    x, y, text = page.evaluate(
        "(() => { const chart = timeCharts[0]; const row = chart.rows[0]; const slice = row.slices[3];"
        " const box = chart.canvas.getBoundingClientRect();"
        " return [box.x + chart.xOf((slice[0] + slice[1]) / 2), box.y + row.y + row.height / 2,"
        " chart.chart.texts[slice[4]]]; })()"
    )
    page.mouse("mouseMoved", x, y)
    page.settle()
    told = page.evaluate("[...document.querySelectorAll('.tooltip:not([hidden]) > *')].map((e) => e.textContent)")
    assert told[0] == text
    assert "micro-batch" in text
    assert ", from " in told[1]
    page.mouse("mouseMoved", x, y - 200)
    page.settle()
    assert page.evaluate("document.querySelector('.tooltip:not([hidden])')") is None


def test_another_kind_of_layer_can_be_chosen(page: Page) -> None:
    hidden = "[...document.querySelectorAll('[data-layer]')].map((e) => e.hidden)"
    assert page.evaluate(hidden) == [False, True]
    page.evaluate(
        "(() => { const e = document.getElementById('layer-choice'); e.value = '1';"
        " e.dispatchEvent(new Event('change')); })()"
    )
    page.settle()
    assert page.evaluate(hidden) == [True, False]
    assert page.evaluate("document.querySelector('[data-layer=\"1\"] canvas').width") > 300
    assert page.problems == []


def test_every_bar_is_as_long_as_its_number(page: Page, tiny_plan: Plan) -> None:
    widths = page.evaluate(
        "[...document.querySelectorAll('.stage')].map((stage) =>"
        " [...stage.querySelectorAll('.bar span')].reduce((sum, e) => sum + e.getBoundingClientRect().width, 0))"
    )
    peaks = tiny_plan.prediction.peak_memory_bytes
    assert [width / widths[0] for width in widths] == pytest.approx([peak / peaks[0] for peak in peaks], rel=0.01)


def test_it_prints_on_white_with_everything_open(report: Path, open_page: Callable[..., Page]) -> None:
    page = open_page(report, dark=True)
    opened = "document.querySelectorAll('details[open]').length"
    page.evaluate(f"addEventListener('beforeprint', () => {{ window.opened = {opened} }})")
    assert page.pdf().startswith(b"%PDF")
    assert page.evaluate("window.opened") == page.evaluate("document.querySelectorAll('details').length")
    assert page.evaluate(opened) == 0


def test_names_are_text_and_never_markup(tiny_plan: Plan, tmp_path: Path, open_page: Callable[..., Page]) -> None:
    name = "</script><b id='planted'>&amp;<!--"
    model = msgspec.structs.replace(tiny_plan.model, name=name)
    write_report(msgspec.structs.replace(tiny_plan, model=model), tmp_path / "report.html")
    page = open_page(tmp_path / "report.html")
    assert page.problems == []
    assert page.evaluate("document.getElementById('planted')") is None
    assert page.evaluate("document.querySelector('h1').textContent").startswith(name)
    assert page.evaluate("report.plan.model.name") == name
