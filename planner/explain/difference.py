"""Two configurations, or plans, term by term: what was chosen otherwise, and which terms grow or shrink with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import groupby

import msgspec

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.step import StageMemory, StepPrediction, predict
from meshwright.costmodel.units import format_bandwidth, format_bytes, format_flops, format_time
from meshwright.costmodel.value import Value
from meshwright.planner.explain.parts import part_terms
from meshwright.planner.layer_splits import ENDS, layers_mesh, strategies_of
from meshwright.planner.layer_words import layer_kind
from meshwright.planner.plan import Plan
from meshwright.planner.plan_conversion import configuration_of
from meshwright.planner.runners_up import strategy_text

PLAIN = (bool, int, float, str, type(None))
NOT_INPUTS = ("source",)
UNITS: tuple[tuple[str, Callable[[float], str]], ...] = (
    ("_flops_per_s", lambda value: f"{format_flops(value)}/s"),
    ("_bytes_per_s", format_bandwidth),
    ("_bytes", format_bytes),
    ("_s", format_time),
)


class Changed(Value, frozen=True, kw_only=True):
    """Something that one has otherwise than the other."""

    name: str
    one: str
    other: str


class TermDifference(Value, frozen=True, kw_only=True):
    """A term in both; 0 where one has none."""

    name: str
    one: float
    other: float

    @property
    def more(self) -> float:
        """How much more the other has: negative where it has less."""
        return self.other - self.one


class Difference(Value, frozen=True, kw_only=True):
    """The other less the one, the largest differences first.

    `inputs`: what was planned for (model, cluster, workload, runtime); `choices`: what was decided. `breakdown_s` and
    `operators_s` are seconds a step, the mean over the stages' GPUs; `memory_bytes` is the fullest stage of each.
    """

    inputs: tuple[Changed, ...]
    choices: tuple[Changed, ...]
    predictions: tuple[StepPrediction, StepPrediction]
    breakdown_s: tuple[TermDifference, ...]
    memory_bytes: tuple[TermDifference, ...]
    fullest_stages: tuple[int, int]
    operators_s: tuple[TermDifference, ...]

    @property
    def step_s(self) -> TermDifference:
        """The step."""
        one, other = self.predictions
        return TermDifference(name="step", one=one.step_time_s, other=other.step_time_s)


def diff_plans(one: Plan, other: Plan) -> Difference:
    """Two plans, both as they are predicted today."""
    return diff_configurations(configuration_of(one), configuration_of(other))


def diff_configurations(one: TrainingConfiguration, other: TrainingConfiguration) -> Difference:
    """Two configurations term by term."""
    predictions = predict(one), predict(other)
    fullest = tuple(max(range(len(p.memory)), key=lambda stage: p.memory[stage].total) for p in predictions)
    memories = (predictions[0].memory[fullest[0]], predictions[1].memory[fullest[1]])
    return Difference(
        inputs=tuple(_changed(_inputs(one), _inputs(other))),
        choices=tuple(_changed(_choices(one), _choices(other))),
        predictions=predictions,
        breakdown_s=_ranked(predictions[0].breakdown_s, predictions[1].breakdown_s),
        memory_bytes=_ranked(*map(_memory_terms, memories)),
        fullest_stages=(fullest[0], fullest[1]),
        operators_s=_ranked(operator_seconds(one), operator_seconds(other)),
    )


def operator_seconds(configuration: TrainingConfiguration) -> dict[str, float]:
    """Seconds a step of every operator by name and pass, the mean over the stages' GPUs, each running alone."""
    times = configuration.num_micro_batches / configuration.mesh.pp
    totals: dict[str, float] = {}
    for part in part_terms(configuration):
        for operator in (operator for one in part.passes for operator in one.operators):
            again = " (again)" if operator.recomputes else ""
            name = f"{operator.name}{again}"
            totals[name] = totals.get(name, 0.0) + times * part.count * operator.time_s
    return totals


def _ranked(one: dict[str, float], other: dict[str, float]) -> tuple[TermDifference, ...]:
    """All terms of both, the largest difference first."""
    names = dict.fromkeys((*one, *other))
    terms = (TermDifference(name=name, one=one.get(name, 0.0), other=other.get(name, 0.0)) for name in names)
    return tuple(sorted(terms, key=lambda term: -abs(term.more)))


def _memory_terms(memory: StageMemory) -> dict[str, float]:
    return {name: getattr(memory, name) for name in memory.__struct_fields__}


def _changed(one: dict[str, str], other: dict[str, str]) -> Iterator[Changed]:
    for name in dict.fromkeys((*one, *other)):
        values = one.get(name, "-"), other.get(name, "-")
        if values[0] != values[1]:
            yield Changed(name=name, one=values[0], other=values[1])


def _inputs(configuration: TrainingConfiguration) -> dict[str, str]:
    model, cluster = configuration.model, configuration.cluster
    kinds = Counter(map(layer_kind, model.layers))
    return {
        **_fields("model", model),
        "model.layers": ", ".join(f"{count} x {kind}" for kind, count in kinds.items()),
        **_fields("cluster", cluster),
        **_fields("gpu", cluster.gpu),
        **_fields("workload", configuration.workload),
        "workload.expert_load": str(configuration.workload.known_load or "not known"),
        **_fields("runtime", configuration.runtime),
        **_fields("runtime.overlap", configuration.runtime.overlap),
    }


def _choices(configuration: TrainingConfiguration) -> dict[str, str]:
    strategies, mesh = Counter(map(strategy_text, strategies_of(configuration))), configuration.mesh
    return {
        **_fields("mesh", layers_mesh(mesh, strategies_of(configuration))),
        f"split of {ENDS}": f"tp {mesh.tp} x sp {mesh.sp}",
        **_fields("sharding", configuration.sharding),
        **_fields("pipeline", configuration.pipeline),
        "pipeline.num_micro_batches": str(configuration.num_micro_batches),
        "layers of virtual stages": _runs(tuple(map(len, configuration.stages))),
        **{f"layers {text}": str(count) for text, count in strategies.items()},
    }


def _runs(numbers: tuple[int, ...]) -> str:
    """Numbers with runs of equal ones together.

    >>> _runs((4, 4, 4, 3))
    '3 x 4, 3'
    """
    runs = [(number, sum(1 for _ in run)) for number, run in groupby(numbers)]
    return ", ".join(f"{count} x {number}" if count > 1 else str(number) for number, count in runs)


def _fields(name: str, value: Value) -> dict[str, str]:
    """The plain fields of a value as text."""
    fields = ((field.name, getattr(value, field.name)) for field in msgspec.structs.fields(value))
    return {
        f"{name}.{field}": _text(field, item)
        for field, item in fields
        if isinstance(item, PLAIN) and field not in NOT_INPUTS
    }


def _text(field: str, value: object) -> str:
    """A value with its unit, which the name of its field ends in."""
    if not isinstance(value, float):
        return str(value)
    words = next((words for suffix, words in UNITS if field.endswith(suffix)), None)
    return words(value) if words else f"{value:.6g}"
