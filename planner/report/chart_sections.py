"""The sections whose charts the page's script draws: pipeline, one layer's streams, what more hardware would buy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from meshwright.planner.describe.headline import seconds
from meshwright.planner.describe.section import milliseconds
from meshwright.planner.report.charts import TimeChart
from meshwright.planner.report.cost_sections import legend
from meshwright.planner.report.html import Html, element, table, text
from meshwright.planner.report.layer_charts import LayerCharts, PassChart
from meshwright.planner.report.pipeline_chart import BESIDE_LABEL
from meshwright.planner.report.plan_sections import paragraph, section
from meshwright.planner.report.sensitivity import FACTORS, Sensitivity, SensitivityPoint

PIPELINE_LEGEND = {
    "forward": "F: forward",
    "backward": "B: backward",
    "dgrad": "I: gradient of the input (dgrad)",
    "wgrad": "W: gradient of the weights (wgrad)",
    "gather": "parameter gather",
    "reduce": "gradient reduction",
    "optimizer": "optimizer",
}
LAYER_LEGEND = {
    "forward": "forward",
    "recompute": "recomputed",
    "dgrad": "gradient of inputs (dgrad)",
    "wgrad": "gradient of weights (wgrad)",
    "communication": "communication",
}
HEAT_NOTE = (
    "Change of the step time. Amounts count one GPU and one direction. Another plan may use a change better: plan anew"
    " for the other cluster with "
)
ZOOM_HINT = "Drag to move, double-click or Ctrl + wheel to zoom; with the keyboard: + − 0 and the arrow keys."
LEAST_CHANGE = 5e-4
FULL_TINT = 0.4
"""The change of the step time at which a cell is tinted most."""

BUTTONS = (("in", "+", "Zoom in"), ("out", "−", "Zoom out"), ("reset", "Whole", "Show all of it"))


def time_chart(name: str, label: str) -> Html:
    """The place of a chart that can be zoomed; the script finds its data under `name`."""
    buttons = (
        element("button", text(words), type="button", data_zoom=action, title=title, aria_label=title)
        for action, words, title in BUTTONS
    )
    return element(
        "div",
        element("div", element("span", class_="shown"), *buttons, class_="toolbar"),
        element("div", element("canvas", role="img", aria_label=label), class_="plot"),
        element("div", element("span"), class_="range", title="The part of the time that is shown"),
        class_="time-chart",
        data_chart=name,
        tabindex="0",
        role="group",
        aria_label=label,
    )


def pipeline_section(chart: TimeChart, colors: Sequence[str], own_s: float) -> Html:
    """The Gantt chart of the step."""
    return section(
        "pipeline",
        "A step of the pipeline",
        paragraph(
            f"What the GPUs of each stage do during one step of {seconds(own_s)}. Letters and numbers name the action"
            f" and its micro-batch; lighter shades are later virtual stages; gaps are bubbles.{_beside(chart)}"
        ),
        time_chart("pipeline", f"Pipeline of one step, {len(chart.rows)} rows"),
        legend([(color, words) for color, words in PIPELINE_LEGEND.items() if color in colors]),
        paragraph(ZOOM_HINT, "hint"),
    )


def _beside(chart: TimeChart) -> str:
    shown = any(row.label == BESIDE_LABEL for row in chart.rows)
    return f" A row “{BESIDE_LABEL}” has the forwards that run beside the backward above them." if shown else ""


def layers_section(layers: Sequence[LayerCharts]) -> Html:
    """One layer's streams, before and after scheduling; the most frequent kind of layer first."""
    blocks = (
        element("div", *_layer_block(number, layer), class_="layer", data_layer=str(number), **_hidden(number))
        for number, layer in enumerate(layers)
    )
    colors = {slice_[2] for layer in layers for one in layer.passes for row in one.chart.rows for slice_ in row.slices}
    return section(
        "layer",
        "Inside one layer: before and after scheduling",
        paragraph(
            "Which operator runs when, on which stream of a GPU, for one micro-batch: above in program order with"
            " nothing overlapped, below in the order of the plan, on the same time axis. Communication that runs beside"
            " computation slows both; the chart has that in its lengths."
        ),
        _choice(layers),
        legend([(color, words) for color, words in LAYER_LEGEND.items() if color in colors]),
        *blocks,
        paragraph(ZOOM_HINT, "hint"),
    )


def _hidden(number: int) -> dict[str, str]:
    return {"hidden": "hidden"} if number else {}


def _choice(layers: Sequence[LayerCharts]) -> Html:
    """Which layers are shown; a choice where there are several kinds."""
    if len(layers) == 1:
        return paragraph(_title(layers[0]), "layer-title")
    options = (element("option", text(_title(layer)), value=str(number)) for number, layer in enumerate(layers))
    return element("label", text("Layers shown: "), element("select", *options, id="layer-choice"), class_="choice")


def _title(layer: LayerCharts) -> str:
    return f"{layer.count} layers: {layer.title}" if layer.count > 1 else f"1 layer: {layer.title}"


def _layer_block(number: int, layer: LayerCharts) -> Iterator[Html]:
    for one in layer.passes:
        yield element("h3", text(one.title), text(": "), _gain(one))
        yield time_chart(f"layer-{number}-{one.name}", f"{one.title}: streams before and after scheduling")


def _gain(one: PassChart) -> Html:
    """Both lengths, and by how much the plan's order is shorter."""
    change = one.after_s / one.before_s - 1.0 if one.before_s else 0.0
    shown = f"{change * 100:+z.1f} %" if abs(change) >= LEAST_CHANGE else "no change"
    words = f"{milliseconds(one.before_s, 1e-2)} ms → {milliseconds(one.after_s, 1e-2)} ms ({shown})"
    return element("span", text(words.replace("-", "−")), class_="gain")


def sensitivity_section(found: Sequence[Sensitivity], own_s: float) -> Html:
    """A curve and a table row for each resource."""
    return section(
        "sensitivity",
        "What more hardware would buy",
        paragraph(f"{_verdict(found, own_s)} One resource changes at a time, and the plan is held as it is."),
        element("div", class_="curves", data_chart="sensitivity", role="img", aria_label="Step time over resources"),
        table(("resource", "now", *map(_factor_words, FACTORS)), (_row(one, own_s) for one in found), class_="heat"),
        element("p", text(HEAT_NOTE), element("code", text("meshwright plan")), text("."), class_="hint"),
    )


def _verdict(found: Sequence[Sensitivity], own_s: float) -> str:
    """Which resource shortens the step most."""
    savings = ((one.words, 1.0 - one.at(2.0).step_time_s / own_s) for one in found)
    gains = [f"{name} by {saving * 100:.1f} %" for name, saving in savings if saving > 0.0005]
    if not gains:
        return "More of no resource would shorten the step."
    return f"Twice as much of a resource would shorten the step: {', '.join(gains)}."


def _factor_words(factor: float) -> str:
    """The factor as a change.

    >>> _factor_words(0.75), _factor_words(2.0)
    ('−25 %', '+100 %')
    """
    return f"{(factor - 1) * 100:+z.0f} %".replace("-", "−")


def _row(one: Sensitivity, own_s: float) -> tuple[Html, ...]:
    name = element("span", text(one.words), title=one.what)
    amount = text(f"{one.amount:,.4g} {one.unit}")
    return (name, amount, *(_heat(one, point, own_s) for point in one.points))


def _heat(one: Sensitivity, point: SensitivityPoint, own_s: float) -> Html:
    """The change in a cell that is tinted by it; a step that does not fit in memory says so."""
    change = point.step_time_s / own_s - 1.0
    if not point.fits:
        return element("span", text("does not fit"), class_="heat none")
    color, tint = "better" if change < 0 else "worse", 60.0 * min(1.0, abs(change) / FULL_TINT)
    style = f"background:color-mix(in srgb, var(--{color}) {tint:.0f}%, transparent)"
    shown = f"{change * 100:+z.1f} %".replace("-", "−")
    shown = "0.0 %" if shown in ("+0.0 %", "−0.0 %") else shown
    place = f"{one.resource} × {point.factor:g}"
    exact = element("data", text(shown), value=repr(point.step_time_s), title=f"{place}: {seconds(point.step_time_s)}")
    return element("span", exact, class_="heat", style=style)
