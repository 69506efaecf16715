"""The best order of a pass, and how far from the best of all it may be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf

from meshwright.costmodel.order.bound import pass_bound_s
from meshwright.costmodel.order.grouping import grouping_of
from meshwright.costmodel.order.list_schedule import Fits, fits_always, launched, list_schedule
from meshwright.costmodel.order.ordered_pass import OrderedPass
from meshwright.costmodel.order.pass_problem import NO_LINK, PassProblem
from meshwright.costmodel.order.run_order import Run, replay
from meshwright.planner.operator_order.branch_and_bound import BranchAndBound
from meshwright.planner.operator_order.fused_choices import FusedChoice, fused_choices
from meshwright.planner.operator_order.hand_order import hand_order
from meshwright.planner.operator_order.improve import improve

PROVEN = 1e-6
"""Relative distance of bound and order at which an order counts as the best there is."""

NUM_NODES = 20_000
NUM_REPLAYS = 2_000
"""Effort a pass: about two seconds. Counted, not timed, so that equal passes get equal orders."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SolvedPass:
    """The best order found; no order is faster than `lower_bound_s`."""

    ordered: OrderedPass
    lower_bound_s: float
    num_nodes: int

    @property
    def gap(self) -> float:
        """(seconds - bound) / seconds: 0 for an order that is proven the best."""
        total_s = self.ordered.total_s
        return max(0.0, (total_s - self.lower_bound_s) / total_s) if total_s else 0.0

    @property
    def is_proven(self) -> bool:
        """Whether no order is faster."""
        return self.gap <= PROVEN


def solve_pass(
    problem: PassProblem,
    fits: Fits = fits_always,
    *,
    num_nodes: int = NUM_NODES,
    num_replays: int = NUM_REPLAYS,
) -> SolvedPass:
    """Order a pass: list scheduling, local search, then branch and bound over every choice of fused kernels.

    Only orders that fit in memory are taken. More nodes and replays narrow the gap where one is left.
    """
    start = min(_starts(problem, fits), key=lambda run: run.total_s)
    if all(link == NO_LINK for link in problem.link):
        return SolvedPass(ordered=OrderedPass(problem=problem, run=start), lower_bound_s=start.total_s, num_nodes=0)
    fused = tuple(pair for pair in start.grouping.pairs if pair is not None)
    choices, is_complete = fused_choices(problem, fused)
    root_s = pass_bound_s(problem)
    least_s = max(root_s, choices[0].bound_s) if is_complete else root_s
    best = improve(problem, start, fits, bound_s=least_s, num_replays=num_replays)
    branches = _Branches(problem, fits, best, least_s, num_nodes)
    branches.search(choices)
    left_out_s = branches.left_out_s if is_complete else min(root_s, branches.left_out_s)
    return SolvedPass(
        ordered=OrderedPass(problem=problem, run=branches.best),
        lower_bound_s=min(branches.best.total_s, max(least_s, left_out_s)),
        num_nodes=num_nodes - branches.nodes_left,
    )


class _Branches:
    """Branch and bound on one choice of fused kernels after the other: the best order, and what was left out."""

    def __init__(self, problem: PassProblem, fits: Fits, best: Run, least_s: float, num_nodes: int) -> None:
        self.problem, self.fits, self.best, self.least_s = problem, fits, best, least_s
        self.nodes_left = num_nodes
        self.left_out_s = inf
        """No order that was not looked at is faster."""

    def search(self, choices: list[FusedChoice]) -> None:
        """Search the choices, least bound first, until none left can hold a faster order."""
        for choice in choices:
            if max(choice.bound_s, self.least_s) >= self._target_s:
                self._leave_out(choice)
                return
            self._search(choice, is_last=choice is choices[-1])

    @property
    def _target_s(self) -> float:
        return self.best.total_s * (1.0 - PROVEN)

    def _search(self, choice: FusedChoice, *, is_last: bool) -> None:
        """Every order with these kernels, on half the nodes that are left, or on all for the last choice."""
        grouping = grouping_of(self.problem, choice.pairs)
        nodes = self.nodes_left if is_last else self.nodes_left // 2
        search = BranchAndBound(self.problem, grouping, self.fits, cutoff_s=self._target_s, num_nodes=nodes)
        self.nodes_left -= search.run()
        if search.sequence:
            self.best = replay(self.problem, grouping, search.sequence)
        if not search.is_complete:
            self._leave_out(choice)

    def _leave_out(self, choice: FusedChoice) -> None:
        self.left_out_s = min(self.left_out_s, choice.bound_s)


def _starts(problem: PassProblem, fits: Fits) -> Iterator[Run]:
    """What list scheduling finds, and the orders written by hand that fit: no solved order is worse."""
    yield list_schedule(problem, fits)
    for fused in (False, True):
        run = hand_order(problem, fused=fused).run
        if fits(launched(run)):
            yield run
