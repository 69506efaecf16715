"""One point of a sweep: what was set, and what came of it."""

from __future__ import annotations

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.step import StepPrediction
from meshwright.costmodel.value import Value
from meshwright.planner.goodput import TrainingOutlook
from meshwright.planner.layer_splits import layers_mesh, strategies_of

HOUR_S, TRILLION = 3600.0, 1e12


class Run(Value, frozen=True, kw_only=True):
    """A whole training run of `tokens` (by default a trillion) under failures and jitter; cost in the cluster's price.

    days and cost: None where the run hardly gets on, or has no price.
    """

    tokens: float
    effective_fraction: float
    days: float | None
    cost: float | None


class Outcome(Value, frozen=True, kw_only=True):
    """What a configuration does. Memory is that of its fullest stage; `mesh` and `schedule` are words for people.

    cost_per_trillion_tokens: GPU hours of steps alone times the price; None without one.
    """

    step_time_s: float
    tokens_per_s: float
    tokens_per_s_per_gpu: float
    mfu: float
    num_gpus: int
    peak_memory_bytes: float
    memory_limit_bytes: float
    fullest_stage: int
    fits: bool
    mesh: str
    schedule: str
    cost_per_trillion_tokens: float | None = None
    run: Run | None = None


class SweepRow(Value, frozen=True, kw_only=True):
    """One point: `values` of the swept keys (SI units; text where a key takes words) in the order of the axes.

    held: the plan with those values; None where they contradict it. best: under `--replan`, the fastest plan known for
    them, whose search left `gap`; `is_held` if that is the held plan itself. reason: why there is no figure, or what
    does not fit.
    """

    index: int
    values: tuple[int | float | str | bool, ...]
    held: Outcome | None = None
    best: Outcome | None = None
    gap: float | None = None
    is_held: bool = False
    reason: str = ""
    replanned: bool = False

    @property
    def outcome(self) -> Outcome | None:
        """The answer: the best plan where it was asked for, else the plan held."""
        return self.best if self.replanned else self.held


def outcome_of(
    configuration: TrainingConfiguration, prediction: StepPrediction, outlook: TrainingOutlook | None = None
) -> Outcome:
    """The figures of a configuration."""
    peaks = prediction.peak_memory_bytes
    fullest = peaks.index(max(peaks))
    num_gpus, price = configuration.cluster.num_gpus, configuration.cluster.price_per_gpu_hour
    gpu_hours = num_gpus * TRILLION / prediction.tokens_per_s / HOUR_S
    return Outcome(
        step_time_s=prediction.step_time_s,
        tokens_per_s=prediction.tokens_per_s,
        tokens_per_s_per_gpu=prediction.tokens_per_s_per_gpu,
        mfu=prediction.mfu,
        num_gpus=num_gpus,
        peak_memory_bytes=peaks[fullest],
        memory_limit_bytes=prediction.memory_limit_bytes,
        fullest_stage=fullest,
        fits=prediction.fits,
        mesh=mesh_words(configuration),
        schedule=schedule_words(configuration),
        cost_per_trillion_tokens=None if price is None else gpu_hours * price,
        run=None if outlook is None else _run(outlook),
    )


def mesh_words(configuration: TrainingConfiguration) -> str:
    """The degrees above 1."""
    mesh = layers_mesh(configuration.mesh, strategies_of(configuration))
    degrees = ((axis, getattr(mesh, axis)) for axis in ("pp", "dp", "tp", "sp", "cp", "ep", "etp"))
    return " ".join(f"{axis}{degree}" for axis, degree in degrees if degree > 1) or "one GPU"


def schedule_words(configuration: TrainingConfiguration) -> str:
    """Schedule, virtual stages and micro-batch."""
    pipeline = configuration.pipeline
    virtual = f" x {pipeline.virtual_stages}" if pipeline.virtual_stages > 1 else ""
    return f"{pipeline.schedule.value}{virtual}, mbs {pipeline.micro_batch}"


def _run(outlook: TrainingOutlook) -> Run:
    budget = outlook.expected
    return Run(
        tokens=outlook.tokens,
        effective_fraction=outlook.effective_fraction,
        days=None if budget is None else budget.days,
        cost=None if budget is None else budget.cost,
    )
