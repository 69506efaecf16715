"""Runners-up with the reasons why they lost, the certificate, and what all of it rests on."""

from __future__ import annotations

from collections.abc import Iterator

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.planner.describe.certificate import certificate_section as certificate_text
from meshwright.planner.describe.certificate import runners_up_section as runners_up_text
from meshwright.planner.describe.headline import seconds
from meshwright.planner.describe.section import percent
from meshwright.planner.explain.assumptions import assumptions
from meshwright.planner.plan import Plan
from meshwright.planner.report.html import Html, element, figure, join, table, text, words_rows
from meshwright.planner.report.plan_sections import paragraph, section
from meshwright.planner.validation.interval import residual_record

STEP_COLUMN, PEAK_COLUMN = 0, 5


def runners_up_section(plan: Plan) -> Html:
    """The best plans of other meshes and schedules."""
    if not plan.alternatives:
        return section("runners-up", "Runners-up", paragraph("The plan was made without runners-up."))
    shown = runners_up_text(plan)
    return section(
        "runners-up",
        "Runners-up, and why they lost",
        paragraph(
            "The best plans of other meshes and schedules. The last column names the parts of the step that grew most."
        ),
        table(shown.columns, _runner_rows(plan, shown.rows)),
    )


def _runner_rows(plan: Plan, rows: tuple[tuple[str, ...], ...]) -> Iterator[tuple[Html, ...]]:
    for number, (other, row) in enumerate(zip(plan.alternatives, rows, strict=True)):
        cells = list(map(text, row))
        place = f"alternatives.{number}"
        cells[STEP_COLUMN] = figure(f"{place}.step_time_s", other.step_time_s, row[STEP_COLUMN])
        cells[PEAK_COLUMN] = figure(f"{place}.peak_memory_bytes", other.peak_memory_bytes, row[PEAK_COLUMN])
        yield tuple(cells)


def certificate_section(plan: Plan) -> Html:
    """Bound and gap, what became of the candidates, the space as its rules."""
    search, (first, *_) = plan.search, certificate_text(plan).lines
    counts = (
        ("candidates", search.candidates),
        ("broke a rule or the memory limit", search.rejected),
        ("bounded away", search.pruned),
        ("solved in full", search.solved),
    )
    keys = ("candidates", "rejected", "pruned", "solved")
    rows: list[tuple[Html, ...]] = [
        (text(words), figure(f"search.{key}", count, f"{count:,}"))
        for key, (words, count) in zip(keys, counts, strict=True)
    ]
    for words, key in (("step, operators list-scheduled", "objective_s"), ("lower bound of it", "lower_bound_s")):
        rows.append((text(words), figure(f"search.{key}", getattr(search, key), seconds(getattr(search, key)))))
    for words, key in (("gap", "gap"), ("left in the order of operators, at most", "order_gap")):
        rows.append((text(words), figure(f"search.{key}", getattr(search, key), f"{getattr(search, key) * 100:.2f} %")))
    rows.append((text("time"), figure("search.solve_time_s", search.solve_time_s, f"{search.solve_time_s:,.1f} s")))
    rules = (element("li", text(rule)) for rule in search.space.split("; "))
    return section(
        "certificate",
        "What was proven",
        paragraph(
            f"{first[0].upper()}{first[1:]}. The bound holds for this model of a step, not for the cluster itself."
        ),
        table(("search", "value"), rows),
        paragraph(f"Solved by {', '.join(search.solvers)}.", "hint"),
        element("details", element("summary", text("The space that was searched")), element("ul", *rules)),
    )


def sources_section(plan: Plan, configuration: TrainingConfiguration) -> Html:
    """The interval, what the operator times rest on, the runtime, and each figure of the profile with its source."""
    prediction, residuals = plan.prediction, residual_record()
    low_s, high_s = prediction.step_time_interval_s
    basis = (
        (text(name), figure(f"prediction.basis.{name}", share, percent(share)))
        for name, share in prediction.basis.items()
    )
    return section(
        "sources",
        "Assumptions and sources",
        paragraph(
            f"A measured step lies between {seconds(low_s)} and {seconds(high_s)} with 90 % probability, by the errors"
            f" on published training runs ({residuals.source})."
        ),
        element("h3", text("Hardware figures under the operators' time")),
        table(("figures that are", "share of the time"), basis),
        *_runtime(plan, configuration),
        *_profile(plan, configuration),
        *_inputs(plan),
    )


def _runtime(plan: Plan, configuration: TrainingConfiguration) -> Iterator[Html]:
    taken = assumptions(configuration)
    yield element("h3", text("Runtime and workload"))
    yield paragraph(f"Runtime {plan.runtime.name}: {plan.runtime.source}")
    rows = [(one.name, one.value, _with_source(one.meaning, one.source, plan)) for one in taken]
    summary = element("summary", text("Every assumption with its value"))
    yield element("details", summary, table(("assumption", "value", "what it means"), words_rows(rows), class_="prose"))


def _with_source(meaning: str, source: str, plan: Plan) -> str:
    """The meaning; the source behind it where it is not the runtime's, which stands above."""
    return meaning if source == plan.runtime.source else f"{meaning} Source: {source}"


def _profile(plan: Plan, configuration: TrainingConfiguration) -> Iterator[Html]:
    profile = configuration.cluster.profile
    rows = [(citation.figure, citation.source.value, citation.text) for citation in profile.citations]
    rows += [
        (f"{kind} table", entry.provenance.source.value, entry.provenance.text)
        for kind, entries in (
            ("matrix product", profile.gemm),
            ("grouped product", profile.grouped_gemm),
            ("attention", profile.attention),
            ("memory-bound kernel", profile.memory),
            ("custom kernel", profile.custom_kernels),
            ("link", profile.links),
        )
        for entry in entries
    ]
    yield element("h3", text("Hardware profile"))
    yield paragraph(f"{profile.gpu.name} (profile {plan.cluster.profile}); every figure has its source.")
    summary = element("summary", text("Figures and sources"))
    yield element(
        "details", summary, table(("figure", "come by", "source"), words_rows(dict.fromkeys(rows)), class_="prose")
    )


def _inputs(plan: Plan) -> Iterator[Html]:
    hashes = (
        ("model", f"{plan.model.name}: {plan.model.source or 'no source given'}", plan.model.hash),
        ("hardware profile", plan.cluster.profile, plan.cluster.profile_hash),
        ("meshwright", plan.meshwright_version, ""),
    )
    rows = ((text(name), text(words), element("code", text(digest[:16]))) for name, words, digest in hashes)
    yield element("h3", text("Inputs"))
    yield table(("input", "which", "SHA-256"), rows, class_="prose")
    yield element(
        "p",
        join(
            (
                text("The plan itself is in this page: "),
                element("button", text("Save plan.json"), type="button", id="save-plan"),
            )
        ),
        class_="no-print",
    )
