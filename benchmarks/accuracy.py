"""Writes the plots and tables of docs/accuracy.md anew from what `meshwright validate` finds.

    .venv/bin/python benchmarks/accuracy.py

Tables stand between markers in docs/accuracy.md; the words around them are written by people and stay.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from meshwright.planner.validation.fit_record import fit_record
from meshwright.planner.validation.free_parameters import free_parameters
from meshwright.planner.validation.operators import (
    OperatorErrors,
    published_figures,
    replayed_errors,
    shipped_errors,
)
from meshwright.planner.validation.peers import HELD_OUT, OURS, TOOLS, PeerCase, peer_cases, peer_summaries
from meshwright.planner.validation.ranking import PEER_SPEARMAN, a100_rankings, plan_rankings
from meshwright.planner.validation.reasons import reasons
from meshwright.planner.validation.rows import packaged_path, read_table
from meshwright.planner.validation.statistics import summarize
from meshwright.planner.validation.summary import grouped, summary_of
from meshwright.planner.validation.validation import RowResult, validate

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "accuracy.md"
PICTURES = DOCS / "accuracy"
NUM_WORST = 20
TARGETS = {"megatron dense": 0.06, "megatron moe": 0.12, "fsdp-torch dense, every description": 0.10}
SCALES = ((16, "up to 16 GPUs"), (128, "17 to 128"), (1024, "129 to 1,024"), (10**9, "over 1,024"))


def main() -> None:
    """Predict everything once, draw, and replace the tables."""
    table = read_table(packaged_path())
    results = validate(table)
    cases = peer_cases()
    PICTURES.mkdir(exist_ok=True)
    draw(results, "framework", lambda row: f"{row.description} {row.kind}")
    draw(results, "model", lambda row: row.model)
    draw(results, "scale", scale)
    draw(results, "precision", lambda row: f"{row.kind} {row.precision}")
    texts = {text.id: text for text in table}
    worst = sorted(results, key=lambda row: -abs(row.held_out_error or 0.0))[:NUM_WORST]
    parts = {
        "errors": errors_table(results),
        "model": group_table(results, lambda row: f"{row.model}, {row.description}", "model, framework"),
        "scale": group_table(results, lambda row: f"{scale(row)}, {row.kind}", "GPUs"),
        "precision": group_table(results, lambda row: f"{row.kind} {row.precision}", "kind, precision"),
        "coverage": coverage_table(results),
        "memory": memory_table(results),
        "parameters": parameter_table(),
        "peers": peer_table(cases),
        "ranking": ranking_table(cases),
        "operators": operators_table(),
        "published": published_table(),
        "worst": markdown(
            ("row", "framework", "model", "error, held out", "what is known"),
            [
                (row.id, row.description, row.model, signed(row.held_out_error), "; ".join(reasons(texts[row.id])[:3]))
                for row in worst
            ],
        ),
    }
    text = PAGE.read_text()
    for name, content in parts.items():
        marker = re.compile(rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)", re.DOTALL)
        if not marker.search(text):
            raise SystemExit(f"docs/accuracy.md lacks the markers of {name}")
        text = marker.sub(lambda match, content=content: f"{match[1]}{content}\n{match[2]}", text)
    PAGE.write_text(text)


def scale(row: RowResult) -> str:
    """The row's number of GPUs, coarsely."""
    return next(name for most, name in SCALES if row.num_gpus <= most)


def percent(value: float | None) -> str:
    """A share."""
    return "-" if value is None else f"{value:.1%}".replace("%", " %")


def signed(value: float | None) -> str:
    """A share with its sign."""
    return "-" if value is None else f"{value:+.1%}".replace("%", " %")


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def errors_table(results: Sequence[RowResult]) -> str:
    """Errors of the fit and of the folds against their targets."""
    summary = summary_of(results)
    rows = []
    for name, part in summary.fit.by_table_row.items():
        other = summary.held_out.by_table_row[name]
        target = f"{TARGETS[name]:.0%}".replace("%", " %") if name in TARGETS else ""
        figures = (percent(part.median_ape), percent(part.mape), signed(part.bias))
        apart_figures = (percent(other.median_ape), percent(other.mape), percent(other.p90_ape), signed(other.bias))
        rows.append((name, str(part.rows), *figures, *apart_figures, target))
    return markdown(
        (
            "framework, kind",
            "rows",
            "fit: median",
            "fit: mean",
            "fit: bias",
            "held out: median",
            "held out: mean",
            "held out: 90 % below",
            "held out: bias",
            "target (median)",
        ),
        rows,
    )


def group_table(results: Sequence[RowResult], key: Callable[[RowResult], str], name: str) -> str:
    """Signed errors of held-out predictions by group."""
    rows = []
    for group, members in sorted(grouped(results, key).items()):
        errors = [row.held_out_error for row in members]
        known = [error for error in errors if error is not None]
        part = summarize(errors)
        rows.append(
            (group, str(part.rows), signed(part.bias), percent(part.median_ape), signed(min(known)), signed(max(known)))
        )
    return markdown((name, "rows", "bias", "median", "lowest", "highest"), rows)


def coverage_table(results: Sequence[RowResult]) -> str:
    """How many measurements lie in their interval."""
    return markdown(
        ("runs", "rows", "in their 90 % interval"),
        [(name, str(part.rows), percent(part.share)) for name, part in summary_of(results).coverage.items()],
    )


def operators_table() -> str:
    """Errors of each measured profile on the samples that it was not built from."""
    rows = [
        (one.machine, *operator_cells(errors), target_cell(errors)) for one in shipped_errors() for errors in one.errors
    ]
    return markdown(("measured on", "operator", "samples", "median", "95 % below", "bias", "target"), rows)


def published_table() -> str:
    """Errors of the shipped profiles on published micro-benchmarks."""
    rows = [operator_cells(errors) for errors in replayed_errors(published_figures())]
    return markdown(("operator (profile, source)", "rows", "median", "95 % below", "bias"), rows)


def operator_cells(errors: OperatorErrors) -> tuple[str, ...]:
    """Family, number, median, 95th percentile and bias."""
    return (
        errors.family,
        str(errors.samples),
        percent(errors.median_ape),
        percent(errors.p95_ape),
        signed(errors.bias),
    )


def target_cell(errors: OperatorErrors) -> str:
    """The limits, and whether they are kept."""
    if errors.target is None:
        return ""
    limits = f"{percent(errors.target.median_ape)}, {percent(errors.target.p95_ape)}"
    return f"{limits}: {'kept' if errors.meets_target else '**missed**'}"


def memory_table(results: Sequence[RowResult]) -> str:
    """Memory by framework, then what ran though it is predicted not to fit."""
    rows = []
    for name, members in grouped(
        [row for row in results if row.memory and row.memory.error is not None], lambda row: row.description
    ).items():
        part = summarize(row.memory.error for row in members if row.memory)
        rows.append((name, str(part.rows), percent(part.median_ape), signed(part.bias), percent(part.p90_ape)))
    memory = summary_of(results).memory
    over = ", ".join(memory.predicted_out_of_memory) or "none"
    rows.append(("all", str(memory.rows), percent(memory.median_ape), signed(memory.bias), ""))
    table = markdown(("framework", "rows", "median", "bias", "90 % below"), rows)
    return f"{table}\n\nRan, but predicted not to fit: {over}."


def parameter_table() -> str:
    """Every fitted number."""
    rows = []
    for fit in fit_record().frameworks:
        for one in free_parameters()[fit.framework]:
            folds = [fold.values[one.name] for fold in fit.folds]
            spread = f"{min(folds):g} .. {max(folds):g}"
            rows.append((fit.framework, one.name, f"{fit.values[one.name]:g}", spread, f"{one.low:g} .. {one.high:g}"))
    return markdown(("framework", "parameter", "value", "values of the folds", "bounds"), rows)


def peer_table(cases: Sequence[PeerCase]) -> str:
    """Mean absolute error of step time of every tool."""
    rows = []
    for kind in ("dense", "moe"):
        means = peer_summaries(tuple(cases), kind)
        names = (OURS, HELD_OUT, *TOOLS)
        rows.append((kind, *(f"{percent(means[name].mape)} ({means[name].predicted})" for name in names)))
    return markdown(("kind", "meshwright", "meshwright, held out", *TOOLS.values()), rows)


def ranking_table(cases: Sequence[PeerCase]) -> str:
    """Orders of plans."""
    qwen = [
        (TOOLS.get(tool, tool), f"{one.spearman:+.2f}", percent(one.regret), one.picked)
        for tool, one in plan_rankings(cases).items()
    ]
    a100 = [
        (
            one.name,
            str(one.plans),
            f"{one.spearman:.2f}",
            *(f"{PEER_SPEARMAN[tool][i]:.2f}" for tool in PEER_SPEARMAN),
            percent(one.regret),
        )
        for i, one in enumerate(a100_rankings())
    ]
    first = markdown(("Qwen3-235B plans, by", "Spearman", "regret", "picked"), qwen)
    names = tuple(TOOLS[tool] for tool in PEER_SPEARMAN)
    return f"{first}\n\n" + markdown(("A100, model", "plans", "Spearman, held out", *names, "our regret"), a100)


def draw(results: Sequence[RowResult], name: str, key: Callable[[RowResult], str]) -> None:
    """Signed errors of held-out predictions, one row of dots a group."""
    rcParams["svg.hashsalt"] = "meshwright"
    groups = dict(sorted(grouped(results, key).items(), reverse=True))
    figure = Figure(figsize=(7.0, 1.0 + 0.3 * len(groups)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for place, members in enumerate(groups.values()):
        _dots(axes, place, members)
    axes.axvline(0.0, color="black", linewidth=0.8)
    axes.axvspan(-10.0, 10.0, color="0.92")
    axes.set_yticks(range(len(groups)), [f"{group} ({len(members)})" for group, members in groups.items()])
    axes.set_xlabel("error of throughput, held out [%]; positive: predicted too fast")
    axes.set_xlim(-45.0, 75.0)
    figure.savefig(PICTURES / f"{name}.svg", metadata={"Date": None})


def _dots(axes: Axes, place: int, members: Sequence[RowResult]) -> None:
    for kind, color in (("dense", "C0"), ("moe", "C1")):
        errors = list(_errors(row for row in members if row.kind == kind))
        axes.scatter(errors, [place] * len(errors), s=12, alpha=0.5, color=color, linewidths=0.0)
    known = summarize(row.held_out_error for row in members)
    if known.bias is not None:
        axes.plot([100.0 * known.bias] * 2, [place - 0.3, place + 0.3], color="black", linewidth=1.5)


def _errors(rows: Iterator[RowResult]) -> Iterator[float]:
    for row in rows:
        if row.held_out_error is not None:
            yield 100.0 * row.held_out_error


if __name__ == "__main__":
    main()
