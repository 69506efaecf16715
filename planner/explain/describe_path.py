"""The critical path and the breakdown in words."""

from __future__ import annotations

from collections.abc import Iterator

from meshwright.costmodel.simulate import Term
from meshwright.planner.describe.section import Section, milliseconds, percent, ranges
from meshwright.planner.describe.step_time import TERMS, VISIBLE_FRACTION
from meshwright.planner.explain.critical_path import PathPart, PathTerm, StepPath
from meshwright.planner.explain.explanation import Explanation

MAX_RUNS = 3
TERM_WORDS = {
    Term.FORWARD: "forward of a micro-batch",
    Term.BACKWARD_INPUT: "backward, all but wgrad",
    Term.BACKWARD_WEIGHT: "backward, wgrad",
    Term.OVERLAP_SAVING: "saved by forward beside backward",
    Term.FORWARD_LAST_LAYER: "forward of the chunk's last layer",
    Term.BACKWARD_INPUT_LAST_LAYER: "dgrad of the chunk's last layer",
    Term.BACKWARD_WEIGHT_LAST_LAYER: "wgrad of the chunk's last layer",
    Term.PARAM_GATHER: "parameter gather",
    Term.PARAM_GATHER_FIRST_LAYER: "parameter gather, first layer",
    Term.GRAD_REDUCE: "gradient reduction",
    Term.GRAD_REDUCE_FIRST_LAYER: "gradient reduction, first layer",
    Term.FORWARD_HOP: "activations to the next stage",
    Term.BACKWARD_HOP: "gradients to the stage before",
    Term.STATE_SLOWDOWN: "compute slowed by gathers and reductions",
    Term.OPTIMIZER: "optimizer",
    Term.BARRIER: "agreement on the gradient norm",
}
PART_WORDS = {
    PathPart.PIPELINE: "pipeline",
    PathPart.DATA_PARALLEL: "data parallel, exposed",
    PathPart.OPTIMIZER: "optimizer",
    PathPart.BARRIER: "barrier",
}


def path_section(explanation: Explanation) -> Section:
    """What the longest path through the step pays, and how often; its parts add up to the step."""
    path = explanation.path
    columns = ("term", "virtual stages", "times", "ms each", "ms")
    rows = [row for part in PathPart for row in _part_rows(path, part)]
    return Section(
        title="The path that decides the step: step = pipeline + exposed data parallel + optimizer + barrier",
        columns=columns,
        rows=(*rows, ("step", "", "", "", milliseconds(path.step_time_s, path.step_time_s))),
        notes=(
            "of all chains of waits through the step's events the longest; seconds: costmodel.step.step_inputs,"
            " times: costmodel.simulate.critical_path",
        ),
    )


def _part_rows(path: StepPath, part: PathPart) -> Iterator[tuple[str, ...]]:
    """A part's sum, and below it what it is made of: like terms of equal length in one row."""
    terms = [term for term in path.terms if term.part is part]
    if not terms:
        return
    of_s = path.step_time_s
    yield PART_WORDS[part], "", "", "", milliseconds(path.seconds[part.value], of_s)
    alike: dict[tuple[Term, str], list[PathTerm]] = {}
    for term in terms:
        alike.setdefault((term.term, f"{term.each_s:.4g}"), []).append(term)
    for (kind, _), group in alike.items():
        where = "" if kind is Term.BARRIER else _stages(sorted(term.stage for term in group))
        total_s = sum(term.total_s for term in group)
        count = sum(term.count for term in group)
        each = f"{group[0].each_s * 1e3:,.3f}"
        yield f"  {TERM_WORDS[kind]}", where, f"{count}", each, milliseconds(total_s, of_s)


def _stages(numbers: list[int]) -> str:
    """Stages as ranges; where these are many, the first, the last and how many.

    >>> _stages([0, 1, 2, 5]), _stages([0, 2, 4, 6, 8])
    ('0-2, 5', '0 ... 8 (5)')
    """
    text = ranges(numbers)
    return text if text.count(",") < MAX_RUNS else f"{numbers[0]} ... {numbers[-1]} ({len(numbers)})"


def totals_section(explanation: Explanation) -> Section:
    """The breakdown with how each term comes about and by which formulas."""
    step_s = explanation.prediction.step_time_s
    rows = [
        (
            TERMS[term.name],
            milliseconds(term.time_s, step_s),
            percent(term.of_step),
            term.how,
        )
        for term in explanation.totals
        if abs(term.of_step) >= VISIBLE_FRACTION
    ]
    return Section(
        title="Where the step goes (mean over the stages' GPUs)",
        columns=("term", "ms", "of step", "which is"),
        rows=(*rows, ("step", milliseconds(step_s, step_s), "100.0 %", "")),
    )
