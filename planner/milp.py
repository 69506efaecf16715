"""The integer program of one outer point, in count form: how many layers of each choice lie on each virtual stage.

    n[j, i]   layers of item i (a choice of a layer type) on virtual stage j
    Z         the step time, above every longest path found so far
    over      bytes beyond the memory limit; 0 except when asking how much is missing

and where needed: boundaries between virtual stages (`split_rows`), the largest transient of each device, the saving of
overlapped slots, the share of a stage's first or last layer (`layer_shares`).

Identical layers are integers, not binaries, so there is no symmetry to search through. Paths and the moments at which
memory may peak are rows added as solutions break them.
"""

from __future__ import annotations

import numpy as np

from meshwright.costmodel.simulate import CutCoefficients, ScheduleKind, Term
from meshwright.costmodel.simulate.durations import Array
from meshwright.planner.alike_chunks import alike_kinds, alike_stages
from meshwright.planner.choice import SPLIT_BACKWARD
from meshwright.planner.device_curve import hull_chords
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
        self.num_counts = problem.num_virtual_stages * len(self.table.items)
        program = Program("point")
        self._counts = self._add_counts(program)
        self._step = program.variable("Z")
        over = program.variable("over", None if minimise_excess else 0.0)
        program.minimise(1 * (over if minimise_excess else self._step))
        self._add_layers(program)
        first_choice = len(program.variables)
        self._levels = self._add_transients(program)
        self._add_alike_chunks(program)
        self._highs = HighsModel(program)
        self.step, self.over = self.num_counts, self.num_counts + 1
        whole = range(self.over + 1, first_choice)
        self._mixed = np.array([*range(self.num_counts), *range(first_choice, len(program.variables))])
        self._whole_choices = True
        self.branching = np.array(whole, dtype=np.int64)
        self.num_layer_columns = problem.num_virtual_stages * len(set(problem.layer_types))
        self.branching_upper = np.array([float(program.variables[column].upBound) for column in whole])
        self._shares = LayerShares(problem, self._highs, self.per_second)
        self._totals_at = self._add_totals()
        self._savings = self._add_savings()

    def _add_counts(self, program: Program) -> list[list[Variable]]:
        totals = {kind: self.problem.layer_types.count(kind) for kind, _ in self.table.items}
        counts = [
            [
                program.variable(f"n{stage}_{kind}_{choice}", totals[kind], integer=True)
                for kind, choice in self.table.items
            ]
            for stage in range(self.problem.num_virtual_stages)
        ]
        return counts

    def _add_layers(self, program: Program) -> None:
        """Layers of each type on each virtual stage, as variables of their own: what is best branched on."""
        layers: list[dict[int, Variable]] = []
        for stage, row in enumerate(self._counts):
            layers.append({})
            for kind in sorted(set(self.problem.layer_types)):
                total = self.problem.layer_types.count(kind)
                layers[-1][kind] = program.variable(f"layers{stage}_{kind}", total, integer=True)
                mine = ((v, 1) for v, item in zip(row, self.table.items, strict=True) if item[0] == kind)
                program.require(program.sum(mine) - layers[-1][kind] == 0)
        add_split(program, self.problem, layers)

    def _add_alike_chunks(self, program: Program) -> None:
        """base <= n[j] <= base + extra for the chunks j of a device, at most one extra layer a type."""
        for device, stages in enumerate(alike_stages(self.problem)):
            for kind in sorted(alike_kinds(self.problem)) if stages else ():
                extras = []
                for index in np.flatnonzero(self.table.item_types == kind).tolist():
                    most = self.problem.layer_types.count(kind) // len(stages)
                    base = program.variable(f"base{device}_{index}", most, integer=True)
                    extras.append(program.variable(f"extra{device}_{index}", 1, integer=True))
                    for stage in stages:
                        program.require(self._counts[stage][index] - base >= 0)
                        program.require(self._counts[stage][index] - base - extras[-1] <= 0)
                program.require(program.sum((extra, 1) for extra in extras) <= 1)

    def _add_transients(self, program: Program) -> list[tuple[float, list[tuple[int, float]]]]:
        """Per device the transient bytes it has in any case, and (column, bytes more) of each higher level used."""
        transient = self.table.column("transient_bytes")
        devices = []
        for device, stages in enumerate(self.problem.placement):
            base = max(self.table.end_transient[list(stages)])
            if any(self.problem.fewest_layers(stage) for stage in stages):
                base = max(base, transient.min())
            levels, below = [], base
            for level in sorted({float(value) for value in transient if value > base}):
                column = len(program.variables)
                used = program.variable(f"transient{device}_{len(levels)}", 1, integer=True)
                users = [row for stage in stages for row in self._counts[stage]]
                above = [v for v, value in zip(users, np.tile(transient, len(stages)), strict=True) if value >= level]
                program.require(program.sum((v, 1) for v in above) - len(self.problem.layer_types) * used <= 0)
                levels.append((column, level - below))
                below = level
            devices.append((float(base), levels))
        return devices

    def _add_totals(self) -> dict[str, Array]:
        """A column for each virtual stage's seconds of one micro-batch by pass: what keeps the rows of paths short."""
        names = ("forward_s", "dgrad_s", "wgrad_s") if self.problem.is_split else ("forward_s", "backward_s")
        columns = {}
        for name in names:
            totals = self._totals(name)
            columns[name] = np.array([self._highs.add_column(0.0, float("inf")) for _ in totals])
            for stage, column in enumerate(columns[name]):
                values = totals[stage] * self.per_second
                indices = [*self._stage_columns(stage), int(column)]
                self._highs.add_row(values[-1], indices, np.concatenate([-values[:-1], np.ones(1)]))
        return columns

    def _add_savings(self) -> Array:
        """Columns [virtual stage, 2]: what an overlapped forward and backward hide of each other's communication."""
        stages = self.problem.num_virtual_stages
        columns = np.full((stages, 2), -1, dtype=np.int64)
        if self.problem.kind is not ScheduleKind.DUALPIPE_V:
            return columns
        forward, backward = self._totals("forward_s"), self._totals("backward_s")
        hidden = (self._totals("forward_exposed_s"), self._totals("backward_exposed_s"))
        beside = (backward - hidden[1], forward - hidden[0])
        for stage in range(stages):
            columns[stage] = [self._highs.add_column(0.0, float("inf")) for _ in range(2)]
            for column, exposed, compute in zip(columns[stage], hidden, beside, strict=True):
                self._limit([column], stage, exposed)
                self._limit([column], stage, compute)
            self._limit(list(columns[stage]), stage, forward)
        return columns

    def _totals(self, name: str) -> Array:
        """One number of every item and then of the end, [virtual stage, items + 1]."""
        items, ends = self.table.column(name), self.table.end(name)
        return np.hstack([np.tile(items, (len(ends), 1)), ends[:, None]])

    def _limit(self, columns: list[int], stage: int, seconds: Array) -> None:
        """The columns' sum is at most the stage's total of `seconds` [virtual stage, items and then the end]."""
        values = seconds[stage] * self.per_second
        indices = [*self._stage_columns(stage), *columns]
        self._highs.add_row(-values[-1], indices, np.concatenate([values[:-1], -np.ones(len(columns))]))

    def _stage_columns(self, stage: int) -> range:
        return range(stage * len(self.table.items), (stage + 1) * len(self.table.items))

    def add_path(self, path: CutCoefficients) -> None:
        """Requires the step to last at least as long as this path."""
        table, paid = self.table, _paid(path, self.problem)
        row = {self.step: 1.0}
        for name, columns in self._totals_at.items():
            row.update(zip(columns.tolist(), (-paid.pop(name)).tolist(), strict=True))
        once_s = sum(np.outer(times, table.column(name)) for name, times in paid.items())
        row.update(enumerate((-once_s * self.per_second).ravel().tolist()))
        row.update({self._shares.column(stage, name): -times for stage, name, times in self._shares.paid(path)})
        row.update(self._saved(path))
        fixed_s = sum(float(times @ table.end(name)) for name, times in paid.items()) + _fixed_s(path, self.problem)
        self._highs.add_row(fixed_s * self.per_second, list(row), np.array(list(row.values())))

    def _saved(self, path: CutCoefficients) -> dict[int, float]:
        """Coefficients of the savings that the path has."""
        times = path.of(Term.OVERLAP_SAVING)[self.table.device, self.table.chunk]
        stages = np.flatnonzero(times)
        return {int(column): -times[stage] for stage in stages for column in self._savings[stage]}

    def add_moment(self, device: int, held: tuple[int, ...]) -> None:
        """Requires the device's memory to suffice while it holds that many micro-batches of each chunk."""
        table = self.table
        static, kept = table.column("static_bytes"), table.column("kept_bytes")
        base, levels = self._levels[device]
        fixed = table.reserved_bytes[device] + base
        indices, values = [self.over], [1.0]
        for stage, count in zip(self.problem.placement[device], held, strict=True):
            fixed += table.end("static_bytes")[stage] + count * table.end("kept_bytes")[stage]
            indices += self._stage_columns(stage)
            values += list(-(static + count * kept) * self.per_byte)
        indices += [column for column, _ in levels]
        values += [-more * self.per_byte for _, more in levels]
        self._highs.add_row((fixed - self.problem.memory_limit_bytes) * self.per_byte, indices, np.array(values))

    def add_curve(self, device: int, kind: int, least_s: Array) -> None:
        """Requires k layers of a type on a device to take at least `least_s[k]` a micro-batch, and to fit."""
        stages = list(self.problem.placement[device])
        seconds = micro_batch_s(self.problem, self.table.costs)
        columns = np.array([c for stage in stages for c in self._stage_columns(stage)])
        mine = np.tile(self.table.item_types == kind, len(stages))
        for slope, intercept in hull_chords(least_s):
            values = np.where(mine, np.tile(seconds, len(stages)) - slope, 0.0)
            self._highs.add_row(intercept * self.per_second, columns, values * self.per_second)
        if not np.isfinite(least_s[-1]):
            most = int(np.flatnonzero(np.isfinite(least_s)).max())
            self._highs.add_row(-float(most), columns, np.where(mine, -1.0, 0.0))

    def sharpen_shares(self, path: CutCoefficients, counts: Counts, tolerance_s: float) -> None:
        """Makes the shares of first and last layers exact at these counts, if the path misses more than the tolerance."""
        self._shares.sharpen(path, counts, tolerance_s)

    def limit_step(self, step_time_s: float) -> None:
        """Looks only for steps up to this long."""
        self._highs.set_bounds(self.step, 0.0, step_time_s * self.per_second)

    def suggest(self, counts: Counts) -> None:
        """An assignment to start from."""
        self._highs.suggest(np.arange(self.num_counts), counts.ravel().astype(np.float64))

    def require_whole_choices(self, *, required: bool) -> None:
        """Whether layers of each choice must be whole numbers, or only layers of each type."""
        if required != self._whole_choices:
            self._highs.set_integer(self._mixed, integer=required)
            self._whole_choices = required

    def branch_on(self, lower: Array, upper: Array) -> None:
        """Bounds of the columns `branching`: how many layers where."""
        self._highs.set_all_bounds(self.branching, lower, upper)

    def solve(self, *, integers: bool, relative_gap: float, time_limit_s: float) -> SolveResult:
        """The shortest step under the rows so far; objective and bound in the solver's unit."""
        return self._highs.solve(integers=integers, relative_gap=relative_gap, time_limit_s=time_limit_s)

    def counts(self, values: Array) -> Array:
        """n[j, i] of a solution, not rounded."""
        return values[: self.num_counts].reshape(self.problem.num_virtual_stages, -1)


def _paid(path: CutCoefficients, problem: PointProblem) -> dict[str, Array]:
    """How often the path pays each number of a virtual stage's layers, [virtual stage] by field."""
    table = tables(problem)

    def of(term: Term) -> Array:
        result: Array = path.of(term)[table.device, table.chunk]
        return result

    split = problem.kind in SPLIT_BACKWARD
    backward = (
        {"dgrad_s": of(Term.BACKWARD_INPUT), "wgrad_s": of(Term.BACKWARD_WEIGHT)}
        if split
        else {"backward_s": of(Term.BACKWARD_INPUT)}
    )
    return {
        "forward_s": of(Term.FORWARD),
        **backward,
        "param_gather_s": of(Term.PARAM_GATHER),
        "grad_reduce_s": of(Term.GRAD_REDUCE),
        "optimizer_s": path.of(Term.OPTIMIZER)[table.device],
    }


def _fixed_s(path: CutCoefficients, problem: PointProblem) -> float:
    """Seconds of the path that no assignment changes: hops and barrier."""
    hops = np.array(problem.hops_s or np.zeros(problem.num_virtual_stages - 1))
    times = path.of(Term.FORWARD_HOP) + path.of(Term.BACKWARD_HOP)
    return float(times @ hops) + float(path.of(Term.BARRIER)) * problem.barrier_s
