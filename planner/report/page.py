"""The page: everything put together, with its style, its script and its data inside, and nothing outside."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import msgspec

from meshwright import __version__
from meshwright.planner.plan import Plan
from meshwright.planner.plan_conversion import configuration_of, plan_warnings
from meshwright.planner.report import chart_sections, cost_sections, plan_sections, search_sections
from meshwright.planner.report.charts import TimeChart
from meshwright.planner.report.html import Html, element, join, text
from meshwright.planner.report.layer_charts import layer_charts
from meshwright.planner.report.pipeline_chart import colors_of, pipeline_chart
from meshwright.planner.report.sensitivity import Sensitivity, sensitivities
from meshwright.planner.serialise import write_whole
from meshwright.planner.simulated_step import simulated_step

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:"
"""The browser itself refuses any request."""

CONTENTS = (
    ("plan", "Plan"),
    ("time", "Time"),
    ("pipeline", "Pipeline"),
    ("layer", "One layer"),
    ("memory", "Memory"),
    ("sensitivity", "What-if"),
    ("runners-up", "Runners-up"),
    ("certificate", "Certificate"),
    ("sources", "Sources"),
)


def write_report(plan: Plan, path: Path) -> None:
    """Write the page of a plan whole or not at all. Raises `InputError` where it cannot be written."""
    write_whole(report_html(plan).encode(), path)


def report_html(plan: Plan) -> str:
    """The page of a plan. Its figures are the plan's own; charts and what-ifs are simulated now."""
    configuration = configuration_of(plan)
    step = simulated_step(configuration)
    own_s = step.timeline.step_time_s
    pipeline, layers, found = pipeline_chart(step), layer_charts(configuration), sensitivities(configuration)
    charts = {"pipeline": pipeline} | {
        f"layer-{number}-{one.name}": one.chart for number, layer in enumerate(layers) for one in layer.passes
    }
    body = (
        plan_sections.page_header(plan, _notes(plan, own_s)),
        _contents(),
        plan_sections.words_section(plan),
        cost_sections.time_section(plan),
        chart_sections.pipeline_section(pipeline, colors_of(step), own_s),
        chart_sections.layers_section(layers),
        cost_sections.memory_section(plan),
        chart_sections.sensitivity_section(found, own_s),
        search_sections.runners_up_section(plan),
        search_sections.certificate_section(plan),
        search_sections.sources_section(plan, configuration),
        element("footer", text(f"Made by meshwright {__version__} from plan.json. Units: GB is 10⁹ bytes, GiB 2³⁰.")),
    )
    return _document(plan, join(body, "\n"), _data(plan, charts, found, own_s))


def _notes(plan: Plan, own_s: float) -> tuple[str, ...]:
    """What has changed since the plan was made; a new prediction that differs is told apart from the plan's own."""
    notes = [f"Note: {warning}." for warning in plan_warnings(plan)]
    if own_s != plan.prediction.step_time_s:
        notes.append(
            f"Note: predicted again by meshwright {__version__}, the step takes {own_s:.4f} s, not the"
            f" {plan.prediction.step_time_s:.4f} s of the plan. Charts and what-ifs show the new prediction, all other"
            " figures are the plan's."
        )
    return tuple(notes)


def _contents() -> Html:
    links = (element("a", text(words), href=f"#{name}") for name, words in CONTENTS)
    return element("nav", *links, aria_label="Contents")


def _data(plan: Plan, charts: dict[str, TimeChart], found: tuple[Sensitivity, ...], own_s: float) -> dict[str, object]:
    return {"plan": plan, "charts": charts, "sensitivity": {"step_time_s": own_s, "resources": found}}


def _document(plan: Plan, body: Html, data: dict[str, object]) -> str:
    title = f"{plan.model.name} on {plan.cluster.num_gpus:,} GPUs"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", text(title)),
        element("style", _asset("page.css")),
    )
    embedded = element("script", _json(data), type="application/json", id="report-data")
    scripts = (element("script", _asset(name)) for name in SCRIPTS)
    whole = element("html", head, element("body", element("main", body), embedded, *scripts), lang="en")
    return f"<!DOCTYPE html>\n{whole}\n"


SCRIPTS = ("time_chart.js", "curves.js", "page.js")


def _asset(name: str) -> Html:
    return Html(files("meshwright.planner.report").joinpath("assets", name).read_text(encoding="utf-8"))


def _json(data: object) -> Html:
    """JSON that cannot end the script element it stands in."""
    return Html(msgspec.json.encode(data, order="deterministic").decode().replace("<", "\\u003c"))
