"""What a little more of each resource would save: with the plan held, and with the best plan for the richer cluster.

Re-solving knows an optimum only within its gap. With steps T and lower bounds L before and after, the saving of the
optima lies between L_before - T_after and T_before - L_after, all as searches compare plans (`search_objective`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import msgspec

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.errors import InfeasibleError, InputError
from meshwright.costmodel.hardware import ClusterSpec
from meshwright.costmodel.step import predict
from meshwright.costmodel.value import Value
from meshwright.planner.draft import changed_configuration, draft_of
from meshwright.planner.explain.difference import Changed, diff_configurations
from meshwright.planner.explain.resources import Resource, resources_of
from meshwright.planner.explain.search_objective import search_objective_s
from meshwright.planner.explain.why_not import problem_of
from meshwright.planner.plan import Plan
from meshwright.planner.plan_conversion import configuration_of, plan_warnings
from meshwright.planner.search import SearchResult, search

MORE_FRACTION = 0.1
MOST_FRACTION = 1.0
"""GPUs come in numbers that the batch can be shared among: the least addition up to this share is taken."""


class Resolved(Value, frozen=True, kw_only=True):
    """The best plan found for a cluster; `choices`: what it decides otherwise.

    `objective_s` is its step as searches compare plans; no plan has less than `lower_bound_s` in these terms.
    """

    step_s: float
    objective_s: float
    lower_bound_s: float
    choices: tuple[Changed, ...] = ()


class MarginalValue(Value, frozen=True, kw_only=True):
    """More of one resource: `amount` and `added` in `unit`s.

    `held_saving_s` of the step with the plan held, or why it cannot be (`held_reason`). `saving_s` with the plan
    re-solved, `saving_interval_s` what the two searches prove of the best plans' saving; None where nothing was
    re-solved, with `resolved_reason` where that failed.
    """

    resource: str
    what: str
    unit: str
    amount: float
    added: float
    held_saving_s: float | None
    held_reason: str = ""
    saving_s: float | None = None
    saving_interval_s: tuple[float, float] | None = None
    resolved: Resolved | None = None
    resolved_reason: str = ""

    @property
    def held_per_unit_s(self) -> float | None:
        """Seconds of the step a unit, the plan held."""
        return None if self.held_saving_s is None else self.held_saving_s / self.added

    @property
    def per_unit_s(self) -> float | None:
        """Seconds of the step a unit, re-solved."""
        return None if self.saving_s is None else self.saving_s / self.added

    @property
    def is_within_gap(self) -> bool | None:
        """Whether the searches do not prove that there is a saving at all; None where nothing was re-solved."""
        return None if self.saving_interval_s is None else self.saving_interval_s[0] <= 0.0


class Marginal(Value, frozen=True, kw_only=True):
    """All resources. `baseline` is the plan's own problem, re-solved."""

    step_s: float
    baseline: Resolved | None
    values: tuple[MarginalValue, ...]
    warnings: tuple[str, ...]


Progress = Callable[[str, int, int], None]
"""Called before each search with what is solved, how many are done, how many there are."""


class Trial(Value, frozen=True, kw_only=True):
    """A resource with a cluster that has more of it, and the plan held there: None, and why, where it cannot be."""

    resource: Resource
    cluster: ClusterSpec
    held: TrainingConfiguration | None
    reason: str = ""


def marginal_values(plan: Plan, *, resolve: bool, progress: Progress | None = None) -> Marginal:
    """What more of each resource saves; with `resolve` also by the best plan for it, a search for each resource."""
    configuration = configuration_of(plan)
    own_s = predict(configuration).step_time_s
    trials = [_trial(configuration, resource) for resource in resources_of(configuration)]
    values = [_held_value(configuration, trial, own_s) for trial in trials]
    baseline = None
    if resolve:
        tell = progress or _silent
        tell("the plan's own cluster", 0, len(trials) + 1)
        baseline = _resolved(configuration, configuration.cluster, configuration)
        for index, trial in enumerate(trials):
            tell(f"more {trial.resource.name}", index + 1, len(trials) + 1)
            values[index] = _resolved_value(configuration, trial, values[index], baseline)
    return Marginal(step_s=own_s, baseline=baseline, values=tuple(values), warnings=plan_warnings(plan))


def _silent(name: str, done: int, of: int) -> None:
    """Progress that nobody watches."""


# What is tried.


def _trial(configuration: TrainingConfiguration, resource: Resource) -> Trial:
    if resource.name == "gpus":
        return _more_gpus(configuration, resource)
    amount = resource.amount(configuration.cluster) * (1.0 + MORE_FRACTION)
    cluster = resource.with_amount(configuration.cluster, amount)
    return Trial(resource=resource, cluster=cluster, held=msgspec.structs.replace(configuration, cluster=cluster))


def _more_gpus(configuration: TrainingConfiguration, resource: Resource) -> Trial:
    """Data parallelism takes up the least addition with which batch and experts can be shared evenly and all fits."""
    reason = ""
    for larger in _with_more_replicas(configuration):
        prediction = predict(larger)
        if prediction.fits:
            return Trial(resource=resource, cluster=larger.cluster, held=larger)
        over_bytes = max(prediction.peak_memory_bytes) - prediction.memory_limit_bytes
        reason = reason or f"with dp {larger.mesh.dp} the plan would need {over_bytes / 1e9:.2f} GB more memory"
    batch, most = configuration.workload.global_batch, round(configuration.mesh.dp * (1.0 + MOST_FRACTION))
    size = configuration.pipeline.micro_batch
    reason = reason or f"no dp up to {most} shares {batch} sequences evenly in micro-batches of {size}"
    return Trial(resource=resource, cluster=_twice(configuration.cluster), held=None, reason=reason)


def _with_more_replicas(configuration: TrainingConfiguration) -> Iterator[TrainingConfiguration]:
    draft, mesh = draft_of(configuration), configuration.mesh
    for dp in range(mesh.dp + 1, round(mesh.dp * (1.0 + MOST_FRACTION)) + 1):
        try:
            wider = msgspec.structs.replace(mesh, dp=dp)
            cluster = configuration.cluster.with_gpus(wider.num_gpus)
            yield changed_configuration(configuration, msgspec.structs.replace(draft, mesh=wider, cluster=cluster))
        except InputError:
            continue


def _twice(cluster: ClusterSpec) -> ClusterSpec:
    """Twice the GPUs, in whole nodes where it is more than one."""
    num_gpus, node = 2 * cluster.num_gpus, cluster.gpus_per_node
    return cluster.with_gpus(num_gpus if num_gpus <= node else -(-num_gpus // node) * node)


# The plan held, and re-solved.


def _held_value(configuration: TrainingConfiguration, trial: Trial, own_s: float) -> MarginalValue:
    resource = trial.resource
    amount = resource.amount(configuration.cluster)
    return MarginalValue(
        resource=resource.name,
        what=resource.what,
        unit=resource.unit,
        amount=amount / resource.unit_size,
        added=(resource.amount(trial.cluster) - amount) / resource.unit_size,
        held_saving_s=None if trial.held is None else own_s - predict(trial.held).step_time_s,
        held_reason=trial.reason,
    )


def _resolved_value(
    configuration: TrainingConfiguration, trial: Trial, value: MarginalValue, baseline: Resolved
) -> MarginalValue:
    try:
        after = _resolved(configuration, trial.cluster, trial.held)
    except (InfeasibleError, InputError) as error:
        return msgspec.structs.replace(value, resolved_reason=str(error))
    return msgspec.structs.replace(
        value,
        resolved=after,
        saving_s=baseline.step_s - after.step_s,
        saving_interval_s=(
            baseline.lower_bound_s - after.objective_s,
            baseline.objective_s - after.lower_bound_s,
        ),
    )


def _resolved(
    configuration: TrainingConfiguration, cluster: ClusterSpec, held: TrainingConfiguration | None
) -> Resolved:
    """The best plan found for a cluster: the search's, or the plan held where that is faster."""
    problem = msgspec.structs.replace(problem_of(configuration), cluster=cluster)
    found: SearchResult = search(problem, top=0, runtime=configuration.runtime)
    found_s, certificate = found.prediction.step_time_s, found.certificate
    held_s = math.inf if held is None else predict(held).step_time_s
    objective_s = certificate.objective_s if held is None else min(certificate.objective_s, search_objective_s(held))
    return Resolved(
        step_s=min(found_s, held_s),
        objective_s=objective_s,
        lower_bound_s=min(objective_s, certificate.lower_bound_s),
        choices=diff_configurations(configuration, found.configuration).choices if found_s < held_s else (),
    )
