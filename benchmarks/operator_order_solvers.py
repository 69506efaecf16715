"""Our branch and bound against CP-SAT and against an integer program, on orders of operators without interference.

    .venv/bin/pip install ortools          # only for this comparison, which needs it
    .venv/bin/python benchmarks/operator_order_solvers.py

With communication and computation as fast beside each other as alone, and the fused kernels chosen, ordering is the
classical problem: fixed durations, streams that run one launch at a time, precedence. CP-SAT and a big-M program (PuLP
with HiGHS, at most 10 s) then state it exactly, and all optima must agree. With interference they can't state it: the
last column is what CP-SAT's orders cost then, its durations taken from the replay of its last order, the best of three
rounds, over the order that `solve_pass` finds. Same passes as `operator_orders.py`, forward and backward of three
strategies. Prints seconds, and writes them with their date beside this file. About five minutes.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import pulp
from ortools.sat.python import cp_model

from meshwright.costmodel.order.bound import pass_bound_s
from meshwright.costmodel.order.fusion import FusedPair
from meshwright.costmodel.order.greedy import Filling, Greedy
from meshwright.costmodel.order.grouping import Grouping, grouping_of, tails_s, unit_times_s, with_fused
from meshwright.costmodel.order.launch_order import PassKind
from meshwright.costmodel.order.list_schedule import fits_always
from meshwright.costmodel.order.pass_problem import NUM_STREAMS, PassProblem
from meshwright.costmodel.order.run_order import replay, streams_of
from meshwright.costmodel.runtime import load_runtime
from meshwright.planner.dated_record import origin_of, write_record
from meshwright.planner.operator_order import solve_pass
from meshwright.planner.operator_order.branch_and_bound import BranchAndBound
from meshwright.planner.operator_order.improve import improve
from meshwright.planner.operator_order.solve import PROVEN

sys.path.insert(0, str(Path(__file__).parent))
from operator_orders import paper_passes  # a script beside this one

RESULT = Path(__file__).with_suffix(".json")
STRATEGIES = ("TP+TP", "SP+EP a2a", "SP+EP ag/rs")
KINDS = (PassKind.FORWARD, PassKind.BACKWARD)
LIMIT_S = 10.0
ROUNDS = 3
NUM_NODES, NUM_REPLAYS = 200_000, 2_000
TICKS_PER_S = 1e10
AGREE = 1e-5
"""Optima are equal if they differ by less, relatively: CP-SAT counts ticks of 0.1 ns, HiGHS satisfies each row to 1e-6
of the horizon."""


class Jobs(NamedTuple):
    """The classical problem: launches with fixed seconds, streams, and what each waits for.

    `problem` has no interference; `total_s` is the best order found of the pass with it, `interfering`.
    """

    problem: PassProblem
    interfering: PassProblem
    total_s: float
    grouping: Grouping
    times_s: list[float]
    streams: list[tuple[int, ...]]

    @property
    def disjoint(self) -> list[tuple[int, int]]:
        """Pairs that share a stream and that no dependency orders."""
        apart = with_fused(self.problem, self.grouping).shape.apart
        return [
            (one, other)
            for one, other in combinations(range(len(self.times_s)), 2)
            if apart[one] >> other & 1 and not set(self.streams[one]).isdisjoint(self.streams[other])
        ]


class Found(NamedTuple):
    """Seconds of the pass, whether the solver proved that none is shorter, and what it took."""

    total_s: float
    is_proven: bool
    wall_s: float


def jobs_of(problem: PassProblem) -> Jobs:
    """The pass without interference, with those kernels fused that the solved order fuses."""
    solved = solve_pass(problem)
    pairs: tuple[FusedPair, ...] = tuple(pair for pair in solved.ordered.run.grouping.pairs if pair is not None)
    plain = replace(problem, loss=(0.0,) * NUM_STREAMS, stretch=(1.0,) * NUM_STREAMS)
    grouping = grouping_of(plain, pairs)
    streams = [streams_of(grouping, number) for number in range(len(grouping.groups))]
    return Jobs(plain, problem, solved.ordered.total_s, grouping, unit_times_s(plain, grouping), streams)


def timed(solve: Callable[[Jobs], tuple[float, bool]], jobs: Jobs) -> Found:
    """Run a solver by the clock on the wall."""
    start = time.perf_counter()
    total_s, is_proven = solve(jobs)
    return Found(total_s, is_proven, time.perf_counter() - start)


def ours(jobs: Jobs) -> tuple[float, bool]:
    """List scheduling, local search, bound, branch and bound: what `solve_pass` does for one fused choice."""
    problem, grouping, times_s = jobs.problem, jobs.grouping, jobs.times_s
    greedy = Greedy(problem, grouping, times_s, tails_s(grouping, times_s), Filling.FITTING)
    bound_s = pass_bound_s(with_fused(problem, grouping))
    start = replay(problem, grouping, greedy.run()[1])
    best = improve(problem, start, fits_always, bound_s=bound_s, num_replays=NUM_REPLAYS)
    if best.total_s <= bound_s * (1.0 + PROVEN):
        return best.total_s, True
    search = BranchAndBound(problem, grouping, fits_always, cutoff_s=best.total_s * (1.0 - PROVEN), num_nodes=NUM_NODES)
    search.run()
    return (search.best_s if search.sequence else best.total_s), search.is_complete


def constraint_program(jobs: Jobs) -> tuple[float, bool]:
    """CP-SAT: an interval for each launch, no overlap on any stream."""
    total_s, is_proven, _ = _constraint_program(jobs, jobs.times_s)
    return total_s, is_proven


def _constraint_program(jobs: Jobs, times_s: list[float]) -> tuple[float, bool, list[int]]:
    """The shortest pass with these durations, whether that is proven, and when each launch starts."""
    model = cp_model.CpModel()
    ticks = [round(time_s * TICKS_PER_S) for time_s in times_s]
    starts = [model.new_int_var(0, sum(ticks), f"start{number}") for number in range(len(ticks))]
    intervals = [model.new_fixed_size_interval_var(starts[i], ticks[i], f"interval{i}") for i in range(len(ticks))]
    end = model.new_int_var(0, sum(ticks), "end")
    for stream in range(NUM_STREAMS):
        model.add_no_overlap([intervals[i] for i, streams in enumerate(jobs.streams) if stream in streams])
    for number, sources in enumerate(jobs.grouping.before):
        model.add(end >= starts[number] + ticks[number])
        for source in sources:
            model.add(starts[number] >= starts[source] + ticks[source])
    model.minimize(end)
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = LIMIT_S
    solver.parameters.num_workers = 2
    status = solver.solve(model)
    return solver.objective_value / TICKS_PER_S, status == cp_model.OPTIMAL, [solver.value(start) for start in starts]


def with_interference(jobs: Jobs) -> float:
    """The best that CP-SAT's orders reach with interference, each round with the durations of the last replay."""
    times_s, best_s = jobs.times_s, float("inf")
    for _ in range(ROUNDS):
        starts = _constraint_program(jobs, times_s)[2]
        sequence = tuple(sorted(range(len(starts)), key=lambda number: (starts[number], number)))
        run = replay(jobs.interfering, jobs.grouping, sequence)
        best_s = min(best_s, run.total_s)
        times_s = [end_s - start_s for start_s, end_s in zip(run.start_s, run.end_s, strict=True)]
    return best_s


def integer_program(jobs: Jobs) -> tuple[float, bool]:
    """Big-M: for two launches on one stream that no dependency orders, a binary says which comes first."""
    horizon_s = sum(jobs.times_s)
    times = [time_s / horizon_s for time_s in jobs.times_s]
    program = pulp.LpProblem("order", pulp.LpMinimize)
    starts = [pulp.LpVariable(f"start{number}", 0, 1) for number in range(len(times))]
    end = pulp.LpVariable("end", 0, 1)
    program += end
    for number, sources in enumerate(jobs.grouping.before):
        program += end >= starts[number] + times[number]
        for source in sources:
            program += starts[number] >= starts[source] + times[source]
    for one, other in jobs.disjoint:
        is_first = pulp.LpVariable(f"first{one}_{other}", cat="Binary")
        program += starts[other] >= starts[one] + times[one] - (1 - is_first)
        program += starts[one] >= starts[other] + times[other] - is_first
    program.solve(pulp.HiGHS(msg=False, timeLimit=LIMIT_S, gapRel=0.0, threads=2))
    if program.sol_status not in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible):
        return float("inf"), False
    return float(pulp.value(end)) * horizon_s, program.sol_status == pulp.LpSolutionOptimal


SOLVERS: dict[str, Callable[[Jobs], tuple[float, bool]]] = {
    "branch and bound": ours,
    "CP-SAT": constraint_program,
    "HiGHS big-M": integer_program,
}


def check(title: str, found: dict[str, Found]) -> None:
    """All proven optima agree, and nobody is below one."""
    proven = {name: one.total_s for name, one in found.items() if one.is_proven}
    assert proven, f"{title}: nobody proved an optimum"
    least_s = min(proven.values())
    for name, total_s in proven.items():
        assert abs(total_s - least_s) <= AGREE * least_s, f"{title}: {name} says {total_s}, another {least_s}"
    for name, one in found.items():
        assert one.total_s >= least_s * (1.0 - AGREE), f"{title}: {name} found {one.total_s}, optimum {least_s}"


def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: version(name) for name in ("ortools", "pulp", "highspy")}


def summary(rows: list[dict[str, object]]) -> dict[str, object]:
    """By solver: how many optima proven, median and longest seconds."""
    totals: dict[str, object] = {}
    for name in SOLVERS:
        mine = [row[name] for row in rows]
        walls = [one["wall_s"] for one in mine]  # type: ignore[index]
        totals[name] = {
            "proven": sum(one["proven"] for one in mine),  # type: ignore[index]
            "passes": len(mine),
            "median_wall_s": statistics.median(walls),
            "longest_wall_s": max(walls),
        }
    ratios = [float(str(row["interfering_over_solved"])) for row in rows]
    totals["CP-SAT with interference over solved"] = {
        "best": min(ratios),
        "mean": statistics.mean(ratios),
        "worst": max(ratios),
    }
    return totals


def _cell(found: Found, optimum_s: float) -> str:
    verdict = "proven" if found.is_proven else f"{found.total_s / optimum_s - 1.0:+.2%}"
    return f"{found.wall_s:10.3f} s {verdict:>8s}"


def main() -> None:
    """Print the table and write the record."""
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    print(
        f"{'pass':42s}{'jobs':>5s}{'pairs':>6s}  optimum [ms]"
        + "".join(f"{name:>20s}" for name in SOLVERS)
        + "  interfering"
    )
    rows: list[dict[str, object]] = []
    for one in paper_passes(load_runtime("meshwright")):
        if one.strategy not in STRATEGIES or one.kind not in KINDS:
            continue
        jobs = jobs_of(one.problem)
        found = {name: timed(solve, jobs) for name, solve in SOLVERS.items()}
        title = f"{one.model} {one.strategy} {one.kind}"
        check(title, found)
        optimum_s = min(result.total_s for result in found.values() if result.is_proven)
        ratio = with_interference(jobs) / jobs.total_s
        cells = "".join(_cell(result, optimum_s) for result in found.values())
        size = f"{len(jobs.times_s):5d}{len(jobs.disjoint):6d}"
        print(f"{title:42s}{size}{1e3 * optimum_s:14.4f}{cells}{ratio - 1.0:+13.2%}", flush=True)
        rows.append(
            {"model": one.model, "strategy": one.strategy, "pass": one.kind.value, "jobs": len(jobs.times_s)}
            | {"binaries": len(jobs.disjoint), "optimum_s": optimum_s, "interfering_over_solved": ratio}
            | {
                name: {"total_s": r.total_s, "proven": r.is_proven, "wall_s": round(r.wall_s, 4)}
                for name, r in found.items()
            }
        )
    totals = summary(rows)
    for name, total in totals.items():
        print(f"{name:20s}{total}")
    record = origin_of(__file__).head | {
        "cpu_count": os.cpu_count(),
        "versions": _versions(),
        "limit_s": LIMIT_S,
        "summary": totals,
        "rows": rows,
    }
    write_record(record, RESULT)


if __name__ == "__main__":
    main()
