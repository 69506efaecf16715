"""What became of a shape: its figures and its best plan in short, or why there is none."""

from __future__ import annotations

from enum import StrEnum

from meshwright.costmodel.data_parallel import Sharding
from meshwright.costmodel.simulate import ScheduleKind
from meshwright.costmodel.strategy import Mesh
from meshwright.costmodel.value import Value
from meshwright.planner.codesign.budget import Measure


class Status(StrEnum):
    """PLANNED: the best plan was found. INFEASIBLE: no plan fits. ILLEGAL: sizes contradict each other or the budget.

    NOT_DONE: the study was interrupted before.
    """

    PLANNED = "planned"
    INFEASIBLE = "infeasible"
    ILLEGAL = "illegal"
    NOT_DONE = "not done"


class Front(StrEnum):
    """Whether a shape is Pareto-optimal.

    ON: no other planned shape is at least as large and as fast. NEAR: one is, but by less than the gap of this shape's
    search leaves open. OFF: one is for certain. NONE: no plan.
    """

    ON = "on"
    NEAR = "near"
    OFF = "off"
    NONE = ""


class ShapePlan(Value, frozen=True, kw_only=True):
    """The best plan of a shape. No plan of the searched space is faster by more than `gap`.

    `days` and `gpu_hours` to the tokens of the study, failures included where the cluster has a failure rate; `cost`
    where it has a price. None: the run would hardly get on.
    """

    mesh: Mesh
    schedule: ScheduleKind
    virtual_stages: int
    micro_batch_size: int
    sharding: Sharding
    recompute: tuple[str, ...]
    step_time_s: float
    gap: float
    tokens_per_s: float
    tokens_per_s_per_gpu: float
    mfu: float
    peak_memory_bytes: float
    memory_limit_bytes: float
    days: float | None
    gpu_hours: float | None
    cost: float | None

    @property
    def least_s(self) -> float:
        """What the best plan of all could take, as far as the search knows."""
        return self.step_time_s * (1.0 - self.gap)


class ShapeOutcome(Value, frozen=True, kw_only=True):
    """One row of a study. `budget_excess`: what it has of the held measure over the base model's, less 1."""

    name: str
    is_base: bool
    sizes: dict[str, int]
    status: Status
    reason: str
    total_parameters: int | None
    active_parameters: int | None
    flops_per_token: float | None
    budget_excess: float | None
    plan: ShapePlan | None
    front: Front = Front.NONE

    def amount(self, measure: Measure) -> float | None:
        """Its figure of a measure; None where it has no model."""
        amounts = {
            Measure.PARAMETERS: self.total_parameters,
            Measure.ACTIVE_PARAMETERS: self.active_parameters,
            Measure.FLOPS: self.flops_per_token,
        }
        return amounts[measure]
