"""What a prediction takes for granted: the runtime, field by field, and the scalars of the hardware profile."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import msgspec

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.formulas.memory import memory_limit_bytes
from meshwright.costmodel.overlap import LayerOverlap
from meshwright.costmodel.runtime import RuntimeSpec
from meshwright.costmodel.units import format_bytes
from meshwright.costmodel.value import Value
from meshwright.planner.explain.citations import figure
from meshwright.planner.explain.formula_registry import IMBALANCE, MEMORY_LIMIT
from meshwright.planner.explain.formula_text import formula_text

_FIELD = re.compile(r"(\w+(?:, \w+)*): (.*)")
_NAMED = ("name", "source")


class Assumption(Value, frozen=True, kw_only=True):
    """One thing taken for granted: its value, what it means, where it comes from."""

    name: str
    value: str
    meaning: str
    source: str


def assumptions(configuration: TrainingConfiguration) -> tuple[Assumption, ...]:
    """Everything in force, the runtime first."""
    return (*_of_runtime(configuration.runtime), *_of_workload(configuration), *_of_profile(configuration))


def _of_runtime(runtime: RuntimeSpec) -> Iterator[Assumption]:
    meanings = field_meanings()
    for field in msgspec.structs.fields(RuntimeSpec):
        if field.name not in _NAMED:
            value = getattr(runtime, field.name)
            text = _overlap_words(value) if isinstance(value, LayerOverlap) else _words(value)
            yield Assumption(
                name=f"runtime.{field.name}", value=text, meaning=meanings[field.name], source=runtime.source
            )


def field_meanings() -> dict[str, str]:
    """What each field of a runtime means, from the description's own docstring."""
    meanings: dict[str, str] = {}
    current: list[str] = []
    for line in (inspect.getdoc(RuntimeSpec) or "").splitlines():
        match = _FIELD.fullmatch(line)
        if match:
            current = match[1].split(", ")
            meanings |= dict.fromkeys(current, match[2])
        elif line.startswith("    "):
            meanings |= {name: f"{meanings[name]} {line.strip()}" for name in current}
        else:
            current = []
    return meanings


def _words(value: object) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else f"{value}"


def _overlap_words(overlap: LayerOverlap) -> str:
    levels = [f"{name} {getattr(overlap, name)}" for name in overlap.__struct_fields__ if name != "fused_share"]
    return f"{', '.join(levels)}; a fused kernel hides at most {overlap.fused_share:.0%}"


def _of_workload(configuration: TrainingConfiguration) -> Iterator[Assumption]:
    if configuration.model.is_moe:
        formula = formula_text(*IMBALANCE)
        yield Assumption(
            name="workload.expert_imbalance",
            value=f"{configuration.workload.expert_imbalance:g}",
            meaning="load of the busiest expert rank over the mean, where it is more than the runtime's own"
            f" assumption: {formula.equation}",
            source=formula.source,
        )


def _of_profile(configuration: TrainingConfiguration) -> Iterator[Assumption]:
    profile = configuration.cluster.profile
    beside = profile.interference
    limit, usable_bytes = formula_text(*MEMORY_LIMIT), configuration.cluster.gpu.usable_memory_bytes
    yield Assumption(
        name="memory limit",
        value=f"{format_bytes(memory_limit_bytes(usable_bytes))} of {format_bytes(usable_bytes)} usable",
        meaning=limit.equation,
        source=limit.source,
    )
    yield Assumption(
        name="interference",
        value=f"compute x {beside.compute_slowdown:g} slower beside a collective inside a node"
        f" ({beside.collective_sms} SMs), which takes x {beside.communication_slowdown:g} as long; between nodes"
        f" x {beside.network_compute_slowdown:g} and x {beside.network_communication_slowdown:g}, or what"
        " moving the same bytes inside a node would take, if that is more",
        meaning="what communication and computation beside each other cost one another",
        source=figure(profile, "interference").text,
    )
    for name, meaning in (("launch", "host time of a kernel launch"), ("network", "constants of collectives")):
        yield Assumption(name=name, value="as in the profile", meaning=meaning, source=figure(profile, name).text)
