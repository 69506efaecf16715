"""What the step would take with more or less of each resource, the plan held as it is."""

from __future__ import annotations

import msgspec

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.step import predict
from meshwright.costmodel.value import Value
from meshwright.planner.explain.resources import Resource, resources_of

FACTORS = (0.5, 0.75, 0.9, 1.1, 1.25, 1.5, 2.0)
NOT_SCALED = ("gpus",)
"""Another number of GPUs changes the plan's mesh."""


WORDS = {
    "memory bandwidth": "GPU memory bandwidth, as reached by copies",
    "memory": "GPU memory capacity",
    "nvlink": "NVLink",
    "pcie": "PCIe",
}


class SensitivityPoint(Value, frozen=True, kw_only=True):
    """The step with `factor` times as much of a resource, and whether all stages still fit in memory."""

    factor: float
    step_time_s: float
    fits: bool


class Sensitivity(Value, frozen=True, kw_only=True):
    """One resource: `amount` of it in `unit`s, `what` it is, and the step over factors of it. `words`: its name."""

    resource: str
    words: str
    what: str
    amount: float
    unit: str
    points: tuple[SensitivityPoint, ...]

    def at(self, factor: float) -> SensitivityPoint:
        """The point of a factor."""
        return next(point for point in self.points if point.factor == factor)


def sensitivities(configuration: TrainingConfiguration) -> tuple[Sensitivity, ...]:
    """One for each resource, the most worthwhile first: that of which a quarter more saves most."""
    scaled = (resource for resource in resources_of(configuration) if resource.name not in NOT_SCALED)
    found = [_sensitivity(configuration, resource) for resource in scaled]
    return tuple(sorted(found, key=lambda one: one.at(1.25).step_time_s))


def _sensitivity(configuration: TrainingConfiguration, resource: Resource) -> Sensitivity:
    amount = resource.amount(configuration.cluster)
    return Sensitivity(
        resource=resource.name,
        words=WORDS.get(resource.name, resource.name),
        what=resource.what,
        amount=amount / resource.unit_size,
        unit=resource.unit,
        points=tuple(_point(configuration, resource, amount, factor) for factor in FACTORS),
    )


def _point(configuration: TrainingConfiguration, resource: Resource, amount: float, factor: float) -> SensitivityPoint:
    cluster = resource.with_amount(configuration.cluster, amount * factor)
    prediction = predict(msgspec.structs.replace(configuration, cluster=cluster))
    return SensitivityPoint(factor=factor, step_time_s=prediction.step_time_s, fits=prediction.fits)
