"""What of an outcome can be drawn: its words, its unit, and whether less of it is better."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches

from meshwright.costmodel.errors import InputError
from meshwright.costmodel.value import Value
from meshwright.planner.sweep.result import SweepResult
from meshwright.planner.sweep.row import Outcome

OPTION = "--metric"
GIB = 2.0**30
MAX_METRICS = 2


class Metric(Value, frozen=True, kw_only=True):
    """A figure of an outcome in a unit for people; `of` gives None where there is none."""

    name: str
    label: str
    of: Callable[[Outcome], float | None]
    less_is_better: bool = True
    digits: int = 3


def _days(outcome: Outcome) -> float | None:
    return None if outcome.run is None else outcome.run.days


def _effective(outcome: Outcome) -> float | None:
    return None if outcome.run is None else 100.0 * outcome.run.effective_fraction


METRICS = {
    metric.name: metric
    for metric in (
        Metric(name="step_time", label="step time [s]", of=lambda outcome: outcome.step_time_s),
        Metric(
            name="tokens_per_s",
            label="throughput [million tokens/s]",
            of=lambda outcome: outcome.tokens_per_s / 1e6,
            less_is_better=False,
        ),
        Metric(name="mfu", label="MFU [%]", of=lambda outcome: outcome.mfu * 100.0, less_is_better=False),
        Metric(
            name="peak_memory",
            label="peak memory of the fullest stage [GiB]",
            of=lambda outcome: outcome.peak_memory_bytes / GIB,
        ),
        Metric(
            name="cost",
            label="cost of a trillion tokens [price of the cluster's GPU hours]",
            of=lambda outcome: outcome.cost_per_trillion_tokens,
        ),
        Metric(name="days", label="days of the whole run", of=_days),
        Metric(
            name="effective",
            label="time that trains [%]",
            of=_effective,
            less_is_better=False,
        ),
    )
}

OTHER_WORK = ("workload.", "model.", "cluster.num_gpus", "mesh.dp")
"""Keys under which steps do different work: their throughput compares, their time does not."""


def chosen_metrics(names: tuple[str, ...]) -> tuple[Metric, ...]:
    """The metrics of these names. Raises `InputError` for an unknown one, and for more than two."""
    for name in names:
        if name not in METRICS:
            near = get_close_matches(name, METRICS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(METRICS)}"
            raise InputError(OPTION, name, f"unknown; {hint}")
    if len(names) > MAX_METRICS:
        raise InputError(OPTION, "", f"{len(names)} metrics; a picture shows one, or one against another")
    return tuple(METRICS[name] for name in names)


def default_metric(result: SweepResult) -> Metric:
    """Throughput where the points do different work, what a run takes where that was asked about, else step time."""
    if result.planned.run is not None:
        return METRICS["effective"]
    swept = (*result.keys, *(key for key, _ in result.changes))
    return METRICS["tokens_per_s" if any(key.startswith(OTHER_WORK) for key in swept) else "step_time"]
