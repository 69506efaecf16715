"""The inner problem of one outer point and its solution, as values.

Given a mesh, a micro-batch and a schedule: which layers lie on which virtual stage, and which choice each layer uses.
"""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache

from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.simulate import OVERLAP_ALL, OverlapPolicy, Schedule, ScheduleKind, TermLayout, build_schedule
from meshwright.costmodel.simulate.schedules import placement
from meshwright.costmodel.step import SPLIT_BACKWARD
from meshwright.costmodel.value import Value
from meshwright.planner.choice import Choice, EndCost


class PointProblem(Value, frozen=True, kw_only=True):
    """Everything the inner solve needs to know.

    `layer_types[i]` is the type of layer i, `choices[type]` the ways to run it. `first` and `last` (embedding, head)
    are parts of the first and the last virtual stage; None if there is none. `hops_s[j]` is the transfer between
    virtual stages j and j+1, either way; `wait_s` is added to every pass. `reserved_bytes` is taken on each device
    before anything else (empty: none).
    Inner virtual stages hold at least `min_layers` layers, those with an embedding or head `min_end_layers`; or, where
    the split is given, `boundaries` are the first layers of the virtual stages and the number of layers.
    `alike_chunks`: the chunks of a device use the same choices (`planner.alike_chunks` has the rule).
    """

    kind: ScheduleKind
    num_stages: int
    num_micro_batches: int
    virtual_stages: int = 1
    layer_types: tuple[int, ...]
    choices: tuple[tuple[Choice, ...], ...]
    first: EndCost | None = None
    last: EndCost | None = None
    hops_s: tuple[float, ...] = ()
    wait_s: float = 0.0
    barrier_s: float = 0.0
    overlap: OverlapPolicy = OVERLAP_ALL
    memory_limit_bytes: float
    reserved_bytes: tuple[float, ...] = ()
    min_layers: int = 1
    min_end_layers: int = 0
    boundaries: tuple[int, ...] = ()
    alike_chunks: bool = True

    def __post_init__(self) -> None:
        used = set(self.layer_types)
        if not used or not used <= set(range(len(self.choices))):
            raise StrategyError("point", "layer_types", f"types {sorted(used)}, choices for {len(self.choices)} types")
        if not all(self.choices[layer_type] for layer_type in used):
            raise StrategyError("point", "choices", "a layer type has no choice")
        self._check_length("hops_s", len(self.hops_s), self.num_virtual_stages - 1)
        self._check_length("reserved_bytes", len(self.reserved_bytes), self.num_stages)
        self._check_length("boundaries", len(self.boundaries), self.num_virtual_stages + 1)

    def _check_length(self, field: str, length: int, expected: int) -> None:
        if length not in (0, expected):
            raise StrategyError("point", field, f"{length} values, expected {expected} (or none)")

    @property
    def num_virtual_stages(self) -> int:
        """Chunks of all devices."""
        return self.num_stages * self.virtual_stages

    @property
    def is_split(self) -> bool:
        """Whether input and weight gradients are separate actions."""
        return self.kind in SPLIT_BACKWARD

    @property
    def layout(self) -> TermLayout:
        """Shapes of the duration terms."""
        return TermLayout(num_stages=self.num_stages, num_chunks=self.virtual_stages)

    @property
    def schedule(self) -> Schedule:
        """The schedule, built on first use."""
        return build_schedule(self.kind, self.num_stages, self.num_micro_batches, self.virtual_stages)

    @property
    def placement(self) -> tuple[tuple[int, ...], ...]:
        """`placement[device][chunk]` is a virtual stage; known without building the schedule."""
        return placement(self.kind, self.num_stages, self.virtual_stages)

    def fewest_layers(self, virtual_stage: int) -> int:
        """The least number of layers of a virtual stage."""
        if self.boundaries:
            return self.boundaries[virtual_stage + 1] - self.boundaries[virtual_stage]
        has_end = (virtual_stage == 0 and self.first is not None) or (
            virtual_stage == self.num_virtual_stages - 1 and self.last is not None
        )
        return min(self.min_layers, self.min_end_layers) if has_end else self.min_layers


class PointStatus(StrEnum):
    """How a solve ended.

    OPTIMAL: within the gap asked for. BOUNDED: a solution, but the gap is wider. CUT_OFF: nothing can be (or, when
    time was up, nothing was) faster than the cutoff. INFEASIBLE: nothing fits.
    """

    OPTIMAL = "optimal"
    BOUNDED = "bounded"
    CUT_OFF = "cut off"
    INFEASIBLE = "infeasible"


class MemoryShortfall(Value, frozen=True, kw_only=True):
    """Why nothing fits: at the attempt that exceeds the limit by least, the device that exceeds it most, and its bytes.

    `lower_bound_bytes` is proven: every assignment exceeds the limit by at least that much on some device.
    """

    device: int
    needed_bytes: float
    limit_bytes: float
    lower_bound_bytes: float

    @property
    def over_bytes(self) -> float:
        """Bytes too many."""
        return self.needed_bytes - self.limit_bytes

    def __str__(self) -> str:
        return (
            f"memory of pipeline stage {self.device}: at least {self.needed_bytes / 1e9:.2f} GB needed,"
            f" {self.over_bytes / 1e9:.2f} GB over the limit of {self.limit_bytes / 1e9:.2f} GB"
        )


class TooFewLayers(Value, frozen=True, kw_only=True):
    """Why nothing fits: fewer layers than virtual stages that need one."""

    num_layers: int
    needed_layers: int

    def __str__(self) -> str:
        return f"{self.num_layers} layers, but the virtual stages need {self.needed_layers}"


class ChoiceCount(Value, frozen=True, kw_only=True):
    """`count` layers of `layer_type` that use `choices[layer_type][choice]`."""

    layer_type: int
    choice: int
    count: int


class PointSolution(Value, frozen=True, kw_only=True):
    """What was found and what was proven. Times are infinite and tuples empty where there is no solution.

    `layers_per_virtual_stage` and `assignment` are in model order. `lower_bound_s`: no assignment of the problem's
    space is faster (`space` says what the space is). `num_cuts`: longest paths found by simulation and added. An
    infeasible problem has a `reason`, unless no split at all keeps the rule for alike chunks.
    """

    status: PointStatus
    layers_per_virtual_stage: tuple[int, ...] = ()
    assignment: tuple[tuple[ChoiceCount, ...], ...] = ()
    step_time_s: float = float("inf")
    lower_bound_s: float = 0.0
    peak_memory_bytes: tuple[float, ...] = ()
    num_cuts: int = 0
    solver: str = ""
    space: str = ""
    reason: MemoryShortfall | TooFewLayers | None = None

    @property
    def gap(self) -> float:
        """(found - lower bound) / found; infinite without a solution."""
        if self.step_time_s == float("inf"):
            return float("inf")
        return max(0.0, (self.step_time_s - self.lower_bound_s) / self.step_time_s)


@lru_cache(maxsize=1024)
def needed_layers(problem: PointProblem) -> int:
    """Layers that the virtual stages need together."""
    return sum(map(problem.fewest_layers, range(problem.num_virtual_stages)))
