"""The top of the page: title, main figures, the plan in words and its tables."""

from __future__ import annotations

from collections.abc import Iterator

from meshwright.planner.cluster_record import cluster_of
from meshwright.planner.describe.headline import seconds
from meshwright.planner.describe.layers import layers_section, mesh_section, pipeline_section
from meshwright.planner.describe.section import gib, percent
from meshwright.planner.plan import Plan
from meshwright.planner.report.html import Html, element, figure, join, table, text, words_rows
from meshwright.planner.report.words import days_to_tokens, headline, plan_words

TRILLION = 1e12


def section(name: str, title: str, *content: Html) -> Html:
    """A section with its heading; `name` is what links lead to."""
    return element("section", element("h2", text(title)), *content, id=name)


def paragraph(words: str, class_: str = "") -> Html:
    """A paragraph of words."""
    return element("p", text(words), class_=class_) if class_ else element("p", text(words))


def page_header(plan: Plan, notes: tuple[str, ...]) -> Html:
    """Title, one sentence, main figures, and what a reader must know before trusting them."""
    title = f"{plan.model.name} on {plan.cluster.num_gpus:,} × {cluster_of(plan.cluster).gpu.name}"
    warnings = (paragraph(note, "warning") for note in notes)
    return element(
        "header",
        paragraph("Training plan", "kicker"),
        element("h1", text(title)),
        paragraph(headline(plan), "lead"),
        *warnings,
        element("div", *_tiles(plan), class_="tiles"),
    )


def _tiles(plan: Plan) -> Iterator[Html]:
    prediction, search = plan.prediction, plan.search
    low_s, high_s = prediction.step_time_interval_s
    peaks, limit = prediction.peak_memory_bytes, prediction.memory_limit_bytes
    stage = peaks.index(max(peaks))
    interval = join(
        (
            text("90 %: "),
            figure("prediction.step_time_interval_s.0", low_s, seconds(low_s)),
            text(" to "),
            figure("prediction.step_time_interval_s.1", high_s, seconds(high_s)),
        )
    )
    step_s, per_s = prediction.step_time_s, prediction.tokens_per_s
    yield _tile("Step time", figure("prediction.step_time_s", step_s, seconds(step_s)), interval)
    yield _tile(
        "Throughput",
        join((figure("prediction.tokens_per_s", per_s, f"{per_s:,.0f}"), element("small", text(" tokens/s")))),
        join(
            (
                figure(
                    "prediction.tokens_per_s_per_gpu",
                    prediction.tokens_per_s_per_gpu,
                    f"{prediction.tokens_per_s_per_gpu:,.0f}",
                ),
                text(f" a GPU; 10¹² tokens in {days_to_tokens(plan, TRILLION):,.1f} days without failures"),
            )
        ),
    )
    yield _tile(
        "Utilisation",
        figure("prediction.mfu", prediction.mfu, f"{percent(prediction.mfu)} MFU"),
        join(
            (
                figure("prediction.tflops_per_gpu", prediction.tflops_per_gpu, f"{prediction.tflops_per_gpu:,.1f}"),
                text(" TFLOP/s a GPU, "),
                figure("prediction.flops_per_token", prediction.flops_per_token, _gflop(prediction.flops_per_token)),
                text(" with multi-token prediction" if plan.model.mtp_depth else ""),
            )
        ),
    )
    yield _tile(
        "Memory",
        figure(f"prediction.peak_memory_bytes.{stage}", peaks[stage], f"{gib(peaks[stage])} GiB"),
        join(
            (
                text(f"{percent(peaks[stage] / limit)} of "),
                figure("prediction.memory_limit_bytes", limit, f"{gib(limit)} GiB"),
                text(" in the fullest stage" if len(peaks) > 1 else " on each GPU"),
            )
        ),
    )
    yield _tile(
        "Certificate",
        figure("search.gap", search.gap, f"{search.gap * 100:.2f} % gap"),
        join(
            (
                figure("search.objective_s", search.objective_s, seconds(search.objective_s)),
                text(" against a bound of "),
                figure("search.lower_bound_s", search.lower_bound_s, seconds(search.lower_bound_s)),
            )
        ),
    )


def _gflop(flops: float) -> str:
    return f"{flops / 1e9:,.1f} GFLOP a token"


def _tile(label: str, main: Html, below: Html) -> Html:
    return element(
        "div",
        element("span", text(label), class_="label"),
        element("strong", main),
        element("span", below, class_="below"),
        class_="tile",
    )


def words_section(plan: Plan) -> Html:
    """Paragraphs, then mesh, layers and pipeline as the command line shows them."""
    layers = layers_section(plan)
    first, *rest = pipeline_section(plan).lines
    lines = (*mesh_section(plan).lines, first if plan.mesh.pp > 1 else f"pipeline: {first}", *rest)
    return section(
        "plan",
        "The plan in words",
        element(
            "div",
            element("div", *map(paragraph, plan_words(plan))),
            element(
                "aside",
                element("h3", text("Mesh and pipeline")),
                element("ul", *(element("li", text(line)) for line in lines)),
            ),
            class_="beside",
        ),
        element("h3", text("Layers")),
        table(layers.columns, words_rows(layers.rows)),
    )
