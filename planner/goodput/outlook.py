"""What a plan means for a whole training run: how fast it gets on, for how many days and at what cost."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from typing import Protocol

from meshwright.costmodel.circumstances import Recovery
from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.expert_load import RoutedRows, busiest_rank, routed_rows
from meshwright.costmodel.formulas.experts import expected_imbalance
from meshwright.costmodel.model import MoeFfnSpec
from meshwright.costmodel.step import StageMemory
from meshwright.costmodel.value import Value
from meshwright.planner.goodput.interruptions import Interruptions, interruptions
from meshwright.planner.goodput.monte_carlo import SimulatedRuns, simulate_runs
from meshwright.planner.goodput.step_spread import StepSpread, step_spread

TRILLION = 1e12
"""The goal where none is given."""

DAY_S, HOUR_S = 86400.0, 3600.0
DEFAULT = Recovery()


class Predicted(Protocol):
    """What of a prediction is used: a `StepPrediction` or a `PredictionRecord`."""

    @property
    def memory(self) -> tuple[StageMemory, ...]:
        """Bytes of each stage."""


class RoutingOutlook(Value, frozen=True, kw_only=True):
    """What a known load or a capacity makes of routed rows; of different MoE layers, the worst of each figure.

    busiest_rank: rows of the busiest expert-parallel rank over the mean of all routed rows. dropped_fraction: rows that
    find their expert full. filled_fraction: share of the rows computed that are zeros.
    """

    load: str
    placement: str
    capacity_factor: float | None
    busiest_rank: float
    dropped_fraction: float
    filled_fraction: float


class Budget(Value, frozen=True, kw_only=True):
    """Wall days, GPU hours (spares included) and cost of the whole run; cost None: the cluster has no price."""

    days: float
    gpu_hours: float
    cost: float | None


class TrainingOutlook(Value, frozen=True, kw_only=True):
    """A training run of `tokens` in `num_steps` steps.

    `expected` is the closed form, `simulated` the mean of random runs, with the `low` and `high` ends of the interval
    that holds 90 % of them; they are the same where nothing fails, and None where runs would hardly get on.
    `assumptions`: what was taken for granted because nothing else was said, each with the key that says it.
    """

    tokens: float
    num_steps: int
    step: StepSpread
    routing: RoutingOutlook | None
    interruptions: Interruptions | None
    effective_fraction: float
    runs: SimulatedRuns | None
    expected: Budget | None
    simulated: Budget | None
    low: Budget | None
    high: Budget | None
    assumptions: tuple[str, ...]
    seed: int


def training_outlook(configuration: TrainingConfiguration, prediction: Predicted) -> TrainingOutlook:
    """The outlook of a configuration under its circumstances, with their goal (a trillion tokens if none) and seed.

    `prediction`: that of this configuration; only its memory is used. What the interval does not hold is the
    uncertainty of the step time and of the mean time between failures themselves.
    """
    circumstances = configuration.circumstances
    tokens = circumstances.tokens or TRILLION
    num_steps = ceil(tokens / configuration.workload.tokens)
    step = step_spread(configuration)
    training_s = num_steps * step.mean_s
    stops = interruptions(configuration, prediction.memory, step.mean_s)
    runs = simulate_runs(stops, training_s, circumstances.seed) if stops else None
    effective = stops.effective_fraction if stops else 1.0
    low_s, high_s = runs.wall_interval_s if runs else (training_s, training_s)

    def budget(wall_s: float) -> Budget | None:
        return _budget(configuration, wall_s) if runs or not stops else None

    return TrainingOutlook(
        tokens=tokens,
        num_steps=num_steps,
        step=step,
        routing=routing_outlook(configuration),
        interruptions=stops,
        effective_fraction=effective,
        runs=runs,
        expected=_budget(configuration, training_s / effective) if effective else None,
        simulated=budget(runs.mean_wall_s if runs else training_s),
        low=budget(low_s),
        high=budget(high_s),
        assumptions=tuple(_assumptions(configuration)),
        seed=circumstances.seed,
    )


def _assumptions(configuration: TrainingConfiguration) -> Iterator[str]:
    recovery = configuration.circumstances.recovery
    if configuration.circumstances.jitter_fraction:
        yield "the passes of micro-batches vary independently of each other (cluster.jitter)"
    if configuration.cluster.mean_time_between_failures_s is None:
        yield "nothing fails (cluster.mean_time_between_failures_s)"
        return
    if recovery.detection_s == DEFAULT.detection_s:
        yield f"detection takes {DEFAULT.detection_s / 60:g} min, what MegaScale stays below (run.detection_s)"
    if recovery.restart_s == DEFAULT.restart_s:
        yield f"a restart takes {DEFAULT.restart_s / 60:g} min (run.restart_s)"
    if isinstance(recovery.checkpoint_write_s, str):
        yield "a checkpoint blocks for the copy of GPU state to host memory, no longer (run.checkpoint_write_s)"
    if not recovery.checkpoint_store_s:
        yield "a checkpoint is safe as soon as it is written (run.checkpoint_store_s)"
    if not recovery.repair_s:
        yield "a failed node restarts with the run (run.repair_s, run.spares)"


def _budget(configuration: TrainingConfiguration, wall_s: float) -> Budget:
    cluster = configuration.cluster
    num_gpus = cluster.num_gpus + configuration.circumstances.recovery.num_spare_nodes * cluster.gpus_per_node
    gpu_hours = num_gpus * wall_s / HOUR_S
    price = cluster.price_per_gpu_hour
    return Budget(days=wall_s / DAY_S, gpu_hours=gpu_hours, cost=None if price is None else gpu_hours * price)


def routing_outlook(configuration: TrainingConfiguration) -> RoutingOutlook | None:
    """What becomes of routed rows; None where neither a load nor a capacity is given, or nothing is routed."""
    workload = configuration.workload
    layers = {layer.ffn for layer, _ in configuration.model.layer_runs if isinstance(layer.ffn, MoeFfnSpec)}
    if workload.routes_evenly or not layers:
        return None
    deviation = configuration.runtime.expert_load_deviation
    rows = [routed_rows(moe, workload.known_load, workload.capacity, deviation) for moe in layers]
    load = workload.known_load
    return RoutingOutlook(
        load=str(load) if load else "balanced",
        placement=load.placement.value if load else "",
        capacity_factor=None if workload.capacity == float("inf") else workload.capacity,
        busiest_rank=max(_busiest_rows(configuration, moe) for moe in layers),
        dropped_fraction=_most(rows, "dropped_fraction"),
        filled_fraction=_most(rows, "filled_fraction"),
    )


def _most(rows: list[RoutedRows], name: str) -> float:
    most: float = max(getattr(each, name) for each in rows)
    return most


def _busiest_rows(configuration: TrainingConfiguration, moe: MoeFfnSpec) -> float:
    """Rows over the mean, with what the workload or the runtime takes for granted."""
    workload, ep = configuration.workload, configuration.mesh.ep
    busiest = busiest_rank(moe, workload.known_load, workload.capacity, ep, 1)
    assumed = expected_imbalance(configuration.runtime.expert_load_deviation, moe.num_experts, ep)
    return busiest.rows_given(min(max(workload.expert_imbalance, assumed), float(ep)))
