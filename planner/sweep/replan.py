"""The best plan for changed circumstances: changes of the plan's own choices become pins of the search."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.errors import InputError
from meshwright.costmodel.step import predict
from meshwright.costmodel.value import Value
from meshwright.planner.changes import CHANGES
from meshwright.planner.check_fixes import check_fixes
from meshwright.planner.draft import with_surroundings
from meshwright.planner.fixes import parse_fixes
from meshwright.planner.search import search
from meshwright.planner.space import Problem
from meshwright.planner.sweep.row import Outcome, outcome_of
from meshwright.planner.what_if import Baseline, drafted

OPTION = "--replan"
PINS = {
    **{f"mesh.{axis}": axis for axis in ("pp", "dp", "tp", "sp", "cp", "ep", "etp")},
    "sharding.zero": "zero",
    "pipeline.schedule": "schedule",
    "pipeline.virtual_stages": "vp",
    "pipeline.micro_batch_size": "mbs",
    "layers.attention": "attention",
    "layers.dispatch": "dispatch",
    "layers.recompute": "recompute",
}
"""Keys of choices to names of `--fix`."""

CHOICES = ("mesh", "sharding", "pipeline", "layers")


class Found(Value, frozen=True, kw_only=True):
    """What a search found: the configuration under the point's circumstances, its figures, and the search's gap."""

    configuration: TrainingConfiguration
    outcome: Outcome
    gap: float


def check_replannable(keys: tuple[str, ...]) -> None:
    """Raises `InputError` for a key that the search decides and nobody can pin."""
    for key in keys:
        if key.partition(".")[0] in CHOICES and key not in PINS:
            raise InputError(OPTION, key, f"cannot be pinned in a search; of choices these can: {', '.join(PINS)}")


def best_plan(baseline: Baseline, values: Mapping[str, str], fixes: tuple[str, ...]) -> Found:
    """The fastest plan under the changes that are no choices, with those that are pinned, and `--fix` besides.

    The search knows nothing of slow parts and failures; its plan is predicted under them.
    Raises `InputError` where the point contradicts itself, `InfeasibleError` where no plan fits.
    """
    circumstances = {key: text for key, text in values.items() if key not in PINS}
    draft = with_surroundings(drafted(baseline, circumstances)[0])
    pins = tuple(f"{PINS[key]}={text}" for key, text in _resolved(baseline, values).items())
    problem = Problem(
        model=draft.model, cluster=draft.cluster, workload=draft.workload, fixes=parse_fixes((*fixes, *pins))
    )
    problem.cluster.gpu.peak_flops_per_s(problem.workload.precision)  # refuses FP8 where the GPU has none
    check_fixes(problem, draft.runtime)
    found = search(problem, top=0, runtime=draft.runtime)
    configuration, prediction = found.configuration, found.prediction
    if configuration.circumstances != draft.circumstances:
        configuration = msgspec.structs.replace(configuration, circumstances=draft.circumstances)
        prediction = predict(configuration)
    return Found(
        configuration=configuration,
        outcome=outcome_of(configuration, prediction),
        gap=found.certificate.gap,
    )


def _resolved(baseline: Baseline, values: Mapping[str, str]) -> dict[str, str]:
    """Pinned values as the search reads them: factors such as 2x worked out."""
    pinned = {key: text for key, text in values.items() if key in PINS}
    read = {key: CHANGES[key].read(key, text, CHANGES[key].get(baseline.draft)) for key, text in pinned.items()}
    return {key: str(getattr(value, "value", value)) for key, value in read.items()}
