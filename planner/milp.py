"""The integer program of one outer point, in count form: how many layers of each choice lie on each virtual stage.

    n[j, i]   layers of item i (a choice of a layer type) on virtual stage j
    Z         the step time, above every longest path found so far
    over      bytes beyond the memory limit; 0 except when asking how much is missing

and where needed: boundaries between virtual stages (`split_rows`), the largest transient of each device, the saving of
overlapped slots, the share of a stage's first or last layer (`layer_shares`). Where the chunks of a device are alike
(`alike_chunks`), n[j, i] = base[device, i] + x[j, i] with x at most 1 and of one item a type.

Identical layers are integers, not binaries, so there is no symmetry to search through. Paths and the moments at which
memory may peak are rows added as solutions break them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from meshwright.costmodel.simulate import CutCoefficients, Held, Term
from meshwright.costmodel.simulate.durations import Array
from meshwright.costmodel.step import SPLIT_BACKWARD
from meshwright.planner.count_columns import CountColumns
from meshwright.planner.device_curve import hull_chords
from meshwright.planner.effort import Effort
from meshwright.planner.layer_shares import LayerShares
from meshwright.planner.point import PointProblem
from meshwright.planner.pulp_solver import HighsModel, Program, SolveResult, Variable
from meshwright.planner.split_rows import add_split
from meshwright.planner.stage_totals import Counts, micro_batch_s, tables

TIME_SCALE = 1_000.0
MEMORY_SCALE = 10_000.0
"""Size of the step time and of the memory limit inside HiGHS, whose tolerances (1e-6) are absolute."""


class PointModel:
    """The program in HiGHS; `time_s` is about the step time, for scaling.

    Minimises the step; or, with `minimise_excess`, the bytes by which some device exceeds the limit.
    """

    def __init__(self, problem: PointProblem, time_s: float, *, minimise_excess: bool = False) -> None:
        self.problem, self.table = problem, tables(problem)
        self.per_second = TIME_SCALE / time_s
        self.per_byte = MEMORY_SCALE / problem.memory_limit_bytes
        program = Program("point")
        self.step, self.over = 0, 1
        step = program.variable("Z")
        over = program.variable("over", None if minimise_excess else 0.0)
        program.minimise(1 * (over if minimise_excess else step))
        self._add_layers(program)
        first_choice = len(program.variables)
        self._counts = CountColumns(program, problem, self._layers)
        self._levels = self._add_transients(program)
        self._highs = HighsModel(program)
        self.branching = np.arange(self.over + 1, first_choice)
        self.branching_upper = np.array([float(v.upBound) for v in program.variables[self.over + 1 : first_choice]])
        self.num_probed = problem.num_stages * len(set(problem.layer_types))
        self._mixed = np.arange(first_choice, len(program.variables))
        self._whole_choices = True
        self._shares = LayerShares(problem, self._highs, self._counts, self.per_second)
        self._totals = self._add_totals()

    # Structure, written in PuLP.

    def _add_layers(self, program: Program) -> None:
        """Layers of each type on each device and virtual stage, as variables of their own: what is best branched on."""
        kinds, chunked = sorted(set(self.problem.layer_types)), self.problem.virtual_stages > 1
        on_device = [
            program.variable(f"device{device}_{kind}", self.problem.layer_types.count(kind), integer=True)
            for device in range(self.problem.num_stages if chunked else 0)
            for kind in kinds
        ]
        self._layers: list[dict[int, Variable]] = [
            {
                kind: program.variable(f"layers{stage}_{kind}", self.problem.layer_types.count(kind), integer=True)
                for kind in kinds
            }
            for stage in range(self.problem.num_virtual_stages)
        ]
        add_split(program, self.problem, self._layers)
        places = ((stages, kind) for stages in self.problem.placement for kind in kinds)
        for total, (stages, kind) in zip(on_device, places, strict=False):
            program.require(program.sum((self._layers[stage][kind], 1) for stage in stages) - total == 0)

    def _add_transients(self, program: Program) -> list[tuple[float, list[tuple[int, float]]]]:
        """Per device the transient bytes it has in any case, and (column, bytes more) of each higher level used."""
        transient = self.table.column("transient_bytes")
        devices = []
        for device, stages in enumerate(self.problem.placement):
            below = float(max(self.table.end_transient[list(stages)]))
            if any(self.problem.fewest_layers(stage) for stage in stages):
                below = max(below, float(transient.min()))
            base, levels = below, []
            for level in sorted({float(value) for value in transient if value > base}):
                levels.append((len(program.variables), level - below))
                self._add_level(program, f"transient{device}_{len(levels)}", stages, transient >= level)
                below = level
            devices.append((base, levels))
        return devices

    def _add_level(self, program: Program, name: str, stages: tuple[int, ...], users: npt.NDArray[np.bool_]) -> None:
        """A binary that is 1 if any of the items `users` is used on the stages."""
        used = program.variable(name, 1, integer=True)
        items = np.flatnonzero(users).tolist()
        layers = [term for stage in stages for term in self._counts.terms(stage, items)]
        program.require(program.sum(layers) - len(self.problem.layer_types) * used <= 0)

    # Columns for what paths pay.

    def _add_totals(self) -> dict[str, npt.NDArray[np.int64]]:
        """A column for each virtual stage's seconds of one micro-batch by pass: what keeps the rows of paths short."""
        names = ("forward_s", "dgrad_s", "wgrad_s") if self.problem.is_split else ("forward_s", "backward_s")
        columns = {}
        for name in names:
            columns[name] = np.array([self._highs.add_column(0.0, float("inf")) for _ in self._layers])
            for stage, column in enumerate(columns[name]):
                self._require_stage([int(column)], 1.0, stage, name, -1.0)
        return columns

    def _require_stage(self, columns: list[int], sign: float, stage: int, name: str, times: float) -> None:
        """Requires sign x (sum of columns) + times x (the stage's total of a cost) >= 0."""
        per_layer, end = self.table.column(name) * self.per_second, self.table.end(name)[stage] * self.per_second
        indices, values = self._counts.stage_row(stage, times * per_layer)
        self._highs.add_row(-times * end, [*indices, *columns], np.array([*values, *[sign] * len(columns)]))

    # Rows that hold for every assignment.

    def add_path(self, path: CutCoefficients) -> None:
        """Requires the step to last at least as long as this path."""
        table, paid = self.table, _paid(path, self.problem)
        row = {self.step: 1.0}
        for name, columns in self._totals.items():
            row.update(zip(columns.tolist(), (-paid.pop(name)).tolist(), strict=True))
        saved_s = np.outer(paid["overlap_saving_s"], table.column("overlap_saving_s")) * table.meets
        once = ((name, times) for name, times in paid.items() if name != "overlap_saving_s")
        once_s = np.sum([saved_s, *(np.outer(times, table.column(name)) for name, times in once)], axis=0)
        row.update(zip(*self._counts.row(-once_s * self.per_second), strict=True))
        row.update({self._shares.column(stage, name): -times for stage, name, times in self._shares.paid(path)})
        fixed_s = sum(float(times @ table.end(name)) for name, times in paid.items()) + _fixed_s(path, self.problem)
        self._highs.add_row(fixed_s * self.per_second, list(row), np.array(list(row.values())))

    def add_moment(self, device: int, held: Held) -> None:
        """Requires the device's memory to suffice while it holds that many micro-batches of each chunk."""
        table = self.table
        base, levels = self._levels[device]
        fixed = table.reserved_bytes[device] + base
        used_bytes = np.zeros((self.problem.num_virtual_stages, len(table.items)))
        for stage, *counts in zip(self.problem.placement[device], held.total, held.late, strict=True):
            terms = list(zip((1, *counts), ("static_bytes", "kept_bytes", "late_bytes"), strict=True))
            fixed += sum(count * float(table.end(name)[stage]) for count, name in terms)
            used_bytes[stage] = np.sum([count * table.column(name) for count, name in terms], axis=0)
        row = dict(zip(*self._counts.row(-used_bytes * self.per_byte), strict=True))
        row |= {column: -more * self.per_byte for column, more in levels} | {self.over: 1.0}
        missing = (fixed - self.problem.memory_limit_bytes) * self.per_byte
        self._highs.add_row(missing, list(row), np.array(list(row.values())))

    def add_curve(self, device: int, kind: int, least_s: Array) -> None:
        """Requires k layers of a type on a device to take at least `least_s[k]` a micro-batch, and to fit."""
        mine = np.zeros((self.problem.num_virtual_stages, len(self.table.items)))
        mine[np.ix_(self.problem.placement[device], self.table.item_types == kind)] = 1.0
        seconds = micro_batch_s(self.problem, self.table.costs)
        for slope, intercept in hull_chords(least_s):
            columns, values = self._counts.row(mine * (seconds - slope))
            self._highs.add_row(intercept * self.per_second, columns, np.array(values) * self.per_second)
        if not np.isfinite(least_s[-1]):
            most = int(np.flatnonzero(np.isfinite(least_s)).max())
            columns, values = self._counts.row(-mine)
            self._highs.add_row(-float(most), columns, np.array(values))

    def add_curve_points(self, index: int, device: int, kind: int, least_s: Array, low: int, high: int) -> None:
        """Makes the curve exact for low .. high layers, the range of column `branching[index]`: a binary each."""
        numbers = [k for k in range(low, high + 1) if np.isfinite(least_s[k])]
        chosen = [self._highs.add_column(0.0, 1.0, integer=True) for _ in numbers]
        total = int(self.branching[index])
        for sign in (1.0, -1.0):
            self._highs.add_row(sign, chosen, np.full(len(chosen), sign))
            self._highs.add_row(0.0, [*chosen, total], np.array([*(sign * k for k in numbers), -sign]))
        mine = np.zeros((self.problem.num_virtual_stages, len(self.table.items)))
        mine[np.ix_(self.problem.placement[device], self.table.item_types == kind)] = self.per_second
        columns, values = self._counts.row(mine * micro_batch_s(self.problem, self.table.costs))
        at_points = [-least_s[k] * self.per_second for k in numbers]
        self._highs.add_row(0.0, [*columns, *chosen], np.array([*values, *at_points]))

    def sharpen_shares(self, path: CutCoefficients, counts: Counts, tolerance_s: float) -> None:
        """Makes the shares of first and last layers exact at these counts, if the path is off by more than that."""
        self._shares.sharpen(path, counts, tolerance_s)

    # Solving.

    def limit_step(self, step_time_s: float) -> None:
        """Looks only for steps up to this long."""
        self._highs.set_bounds(self.step, 0.0, step_time_s * self.per_second)

    def branch_on(self, lower: Array, upper: Array) -> None:
        """Bounds of the columns `branching`: how many layers where."""
        self._highs.set_all_bounds(self.branching, lower, upper)

    def require_whole_choices(self, *, required: bool) -> None:
        """Whether layers of each choice must be whole numbers, or only layers of each type."""
        if required != self._whole_choices:
            self._highs.set_integer(self._mixed, integer=required)
            self._whole_choices = required

    def solve(self, effort: Effort, *, integers: bool, relative_gap: float = 0.0) -> SolveResult:
        """The best under the rows so far; objective and bound in the solver's unit."""
        return self._highs.solve(effort, integers=integers, relative_gap=relative_gap)

    def counts(self, values: Array) -> Array:
        """n[j, i] of a solution, not rounded."""
        return self._counts.counts(values)


def _paid(path: CutCoefficients, problem: PointProblem) -> dict[str, Array]:
    """How often the path pays each number of a virtual stage's layers, [virtual stage] by field."""
    table = tables(problem)

    def of(term: Term) -> Array:
        result: Array = path.of(term)[table.device, table.chunk]
        return result

    backward = (
        {"dgrad_s": of(Term.BACKWARD_INPUT), "wgrad_s": of(Term.BACKWARD_WEIGHT)}
        if problem.kind in SPLIT_BACKWARD
        else {"backward_s": of(Term.BACKWARD_INPUT)}
    )
    slowed = path.of(Term.STATE_SLOWDOWN)[table.device]
    return {
        "forward_s": of(Term.FORWARD),
        **backward,
        "overlap_saving_s": of(Term.OVERLAP_SAVING),
        "param_gather_s": of(Term.PARAM_GATHER),
        "grad_reduce_s": of(Term.GRAD_REDUCE),
        "gather_slowdown_s": np.where(table.device == table.device[0], slowed, 0.0),
        "reduce_slowdown_s": slowed,
        "optimizer_s": path.of(Term.OPTIMIZER)[table.device],
    }


def _fixed_s(path: CutCoefficients, problem: PointProblem) -> float:
    """Seconds of the path that no assignment changes: hops and barrier."""
    hops = np.array(problem.hops_s or np.zeros(problem.num_virtual_stages - 1))
    times = path.of(Term.FORWARD_HOP) + path.of(Term.BACKWARD_HOP)
    return float(times @ hops) + float(path.of(Term.BARRIER)) * problem.barrier_s
