"""Where the time of a step goes, and what the stages hold in memory: bars, each with its table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from meshwright.planner.describe.memory import PARTS, device_layers
from meshwright.planner.describe.section import gib, milliseconds, percent
from meshwright.planner.describe.step_time import LINKS, TERMS, shown_terms
from meshwright.planner.plan import Plan
from meshwright.planner.report.html import Html, element, figure, join, table, text
from meshwright.planner.report.plan_sections import paragraph, section

PART_WORDS = {
    "parameters": "parameters",
    "gradients": "gradients",
    "optimizer": "optimizer state",
    "activations": "activations of micro-batches in flight",
    "transient": "the layer in passing",
}
BAR_ROOM = 1.02


def swatch(color: str) -> Html:
    """A square of a legend's colour; `color` is a name of the page's palette."""
    return element("i", class_="swatch", style=f"background:var(--{color})")


def legend(entries: Sequence[tuple[str, str]]) -> Html:
    """Colours with their words."""
    return element("ul", *(element("li", swatch(color), text(words)) for color, words in entries), class_="legend")


def time_section(plan: Plan) -> Html:
    """One bar for the step, the table of its terms, hidden communication."""
    prediction = plan.prediction
    names = shown_terms(prediction)
    step_s = prediction.step_time_s
    widths = [max(0.0, prediction.breakdown_s[name] / step_s) for name in names]
    bar = element(
        "div",
        *(_segment(f"term-{name}", width, f"{TERMS[name]}: {percent(width)}") for name, width in _pairs(names, widths)),
        class_="bar tall",
        role="img",
        aria_label="The step as one bar; the table below has its parts.",
    )
    return section(
        "time",
        "Where the time goes",
        paragraph("The step, as the mean over pipeline stages. Its parts add up to the step."),
        bar,
        element(
            "div",
            table(("part of the step", "ms", "share"), (_term_row(plan, name) for name in names), class_="terms"),
            element("div", *_hidden(plan)),
            class_="beside",
        ),
    )


def _pairs(names: Sequence[str], widths: Sequence[float]) -> Iterator[tuple[str, float]]:
    return zip(names, widths, strict=True)


def _segment(color: str, fraction: float, words: str) -> Html:
    style = f"width:{100 * fraction:.3f}%;background:var(--{color})"
    return element("span", style=style, title=words)


def _term_row(plan: Plan, name: str) -> tuple[Html, ...]:
    time_s, step_s = plan.prediction.breakdown_s[name], plan.prediction.step_time_s
    return (
        join((swatch(f"term-{name}"), text(TERMS[name]))),
        figure(f"prediction.breakdown_s.{name}", time_s, milliseconds(time_s, step_s)),
        text(percent(time_s / step_s)),
    )


def _hidden(plan: Plan) -> Iterator[Html]:
    """Communication inside the layers (and offload to the host) by link: hidden beside computation, and exposed."""
    prediction = plan.prediction
    rows = [
        (
            text(words.removeprefix("the ")),
            figure(f"prediction.hidden_s.{link}", hidden_s, milliseconds(hidden_s, prediction.step_time_s)),
            figure(
                f"prediction.breakdown_s.exposed_{link}", exposed_s, milliseconds(exposed_s, prediction.step_time_s)
            ),
            text(percent(hidden_s / (hidden_s + exposed_s))),
        )
        for link, words in LINKS.items()
        for hidden_s in (prediction.hidden_s.get(link, 0.0),)
        for exposed_s in (prediction.breakdown_s.get(f"exposed_{link}", 0.0),)
        if hidden_s + exposed_s > 0
    ]
    if rows:
        offloads = any(group.strategy.offload for group in plan.layers)
        yield element("h3", text(f"Communication {'and offload ' if offloads else ''}inside the layers"))
        yield table(("link", "hidden [ms]", "exposed [ms]", "hidden"), rows)


def memory_section(plan: Plan) -> Html:
    """A bar for each stage against the limit, and the table."""
    return section(
        "memory",
        "Memory of each stage",
        paragraph(
            f"What a GPU of each stage holds at its worst moment. The line marks the"
            f" {gib(plan.prediction.memory_limit_bytes)} GiB that a plan may fill."
        ),
        element("div", *_stage_bars(plan), class_="stages", role="img", aria_label="Memory by stage"),
        legend([(f"memory-{part}", PART_WORDS[part]) for part in PARTS]),
        element("h3", text("In GiB")),
        table(("stage", "holds", *PARTS, "peak", "of limit"), _memory_rows(plan)),
    )


def _stage_bars(plan: Plan) -> Iterator[Html]:
    prediction = plan.prediction
    scale = BAR_ROOM * max(prediction.memory_limit_bytes, *prediction.peak_memory_bytes)
    limit = element("b", style=f"left:{100 * prediction.memory_limit_bytes / scale:.3f}%", class_="limit")
    for stage, memory in enumerate(prediction.memory):
        segments = (
            _segment(
                f"memory-{part}", getattr(memory, part) / scale, f"{PART_WORDS[part]}: {gib(getattr(memory, part))} GiB"
            )
            for part in PARTS
        )
        share = percent(prediction.peak_memory_bytes[stage] / prediction.memory_limit_bytes)
        yield element(
            "div",
            element("span", text(f"stage {stage}"), class_="name"),
            element("div", *segments, limit, class_="bar"),
            element("span", text(f"{gib(prediction.peak_memory_bytes[stage])} GiB, {share}"), class_="value"),
            class_="stage",
        )


def _memory_rows(plan: Plan) -> Iterator[tuple[Html, ...]]:
    prediction, layers = plan.prediction, device_layers(plan)
    for stage, (memory, peak) in enumerate(zip(prediction.memory, prediction.peak_memory_bytes, strict=True)):
        parts = (
            figure(f"prediction.memory.{stage}.{part}", getattr(memory, part), gib(getattr(memory, part)))
            for part in PARTS
        )
        yield (
            text(str(stage)),
            text(_counted_layers(layers[stage])),
            *parts,
            figure(f"prediction.peak_memory_bytes.{stage}", peak, gib(peak)),
            text(percent(peak / prediction.memory_limit_bytes)),
        )


def _counted_layers(words: str) -> str:
    """What a stage holds, the number of layers with its word.

    >>> _counted_layers("1 + head"), _counted_layers("10")
    ('1 layer + head', '10 layers')
    """
    number, *rest = words.split(" + ")
    return " + ".join((f"{number} layer{'' if number == '1' else 's'}", *rest))
