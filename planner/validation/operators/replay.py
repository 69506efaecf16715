"""The shipped profiles' predictions of published micro-benchmarks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from meshwright.costmodel.operator_time import operator_timing
from meshwright.costmodel.program.operators import AttentionWork
from meshwright.hardware_profiles import load_cluster
from meshwright.planner.validation.operators.published import PublishedFigure
from meshwright.planner.validation.operators.summary import OperatorErrors, family_of, summarized

MOST_GPUS = 1024


def replayed_error(figure: PublishedFigure) -> float:
    """Predicted over published time, less 1."""
    cluster = load_cluster(figure.profile, num_gpus=MOST_GPUS)
    predicted_s = sum(
        operator_timing(work, cluster, attention_backend=figure.attention_backend).time_s for work in figure.works
    )
    return predicted_s / figure.time_s - 1.0


def replayed_errors(figures: Iterable[PublishedFigure]) -> tuple[OperatorErrors, ...]:
    """Errors by family, GPU and source; published by others on other machines, so without a limit."""
    errors: dict[str, list[float]] = defaultdict(list)
    for figure in figures:
        family = family_of(figure.works[0])
        if len(figure.works) > 1:
            family = "attention forward and backward"
        if isinstance(figure.works[0], AttentionWork):
            family = f"{family}, {figure.implementation}"
        errors[f"{family} ({figure.profile}, {figure.source})"].append(replayed_error(figure))
    return summarized(errors, {})
