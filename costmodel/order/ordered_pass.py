"""A pass in the order in which it runs: found by list scheduling, or given and replayed."""

from __future__ import annotations

from dataclasses import dataclass

from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.order.grouping import are_compatible, grouping_of
from meshwright.costmodel.order.launch_order import Launch, PassOrder
from meshwright.costmodel.order.list_schedule import Fits, fits_always, launched, list_schedule
from meshwright.costmodel.order.pass_problem import COMPUTE, NO_LINK, STREAMS, PassProblem
from meshwright.costmodel.order.run_order import Run, replay
from meshwright.costmodel.order.stream_use import StreamUse, stream_use
from meshwright.costmodel.order.timeline import OperatorSpan, PassTimeline
from meshwright.costmodel.program.operators import Operator


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OrderedPass:
    """A pass that has run in some order."""

    problem: PassProblem
    run: Run

    @property
    def total_s(self) -> float:
        """Seconds of the pass."""
        return self.run.total_s

    def launched(self) -> tuple[Operator, ...]:
        """The operators in the order of their launch."""
        return tuple(self.problem.operators[index] for index in self.indices())

    def indices(self) -> list[int]:
        """Places in program order of the operators, in the order of their launch."""
        return launched(self.run)

    def use(self) -> StreamUse:
        """What each link exposes and hides, and what that costs computation."""
        return stream_use(self.problem, self.run)

    def order(self, gap: float = 1.0) -> PassOrder:
        """The order as a value that a plan stores, `gap` from the best."""
        return PassOrder(launches=tuple(self._launch(number) for number in self.run.sequence), gap=gap)

    def timeline(self) -> PassTimeline:
        """Every operator with its stream and its times, in the order of launch."""
        spans = tuple(span for number in self.run.sequence for span in self._spans(number))
        return PassTimeline(spans=spans, end_s=self.run.total_s)

    def _launch(self, number: int) -> Launch:
        grouping = self.run.grouping
        operators = tuple(self.problem.operators[index].name for index in grouping.groups[number])
        stream = STREAMS[COMPUTE if grouping.on_compute[number] else grouping.link[number]]
        return Launch(operators=operators, stream=stream, num_sms=self._num_sms(grouping.link[number]))

    def _num_sms(self, link: int) -> int:
        return 0 if link == NO_LINK else self.problem.num_sms[link]

    def _spans(self, number: int) -> list[OperatorSpan]:
        """A span for every member; those of a fused kernel share its times, its communication lies on its link."""
        members, problem = self.run.grouping.groups[number], self.problem
        names = tuple(problem.operators[index].name for index in members)
        return [
            OperatorSpan(
                name=problem.operators[index].name,
                stream=STREAMS[COMPUTE if problem.link[index] == NO_LINK else problem.link[index]],
                start_s=self.run.start_s[number],
                end_s=self.run.end_s[number],
                module=problem.operators[index].module,
                phase=problem.operators[index].phase,
                recomputes=problem.operators[index].recomputes,
                is_communication=problem.operators[index].is_communication,
                fused_with=tuple(name for name in names if name != problem.operators[index].name),
                num_sms=self._num_sms(problem.link[index]),
            )
            for index in members
        ]


def ordered_pass(problem: PassProblem, order: PassOrder | None = None, fits: Fits = fits_always) -> OrderedPass:
    """The pass in the given order, or in the best that list scheduling finds among those that fit.

    Raises `StrategyError` where the order is not one of this pass: other operators, a fused kernel that the runtime
    does not have, or an operator launched before what it waits for.
    """
    run = list_schedule(problem, fits) if order is None else _replayed(problem, order)
    return OrderedPass(problem=problem, run=run)


def _replayed(problem: PassProblem, order: PassOrder) -> Run:
    index_of = {op.name: index for index, op in enumerate(problem.operators)}
    _check_names(index_of, order)
    groups = [tuple(index_of[name] for name in launch.operators) for launch in order.launches]
    kernels = {pair.members: pair for pair in problem.pairs}
    for group in groups:
        if len(group) > 1 and group not in kernels:
            names = ", ".join(problem.operators[index].name for index in group)
            raise StrategyError("order", "launches", f"no fused kernel runs {names}")
    fused = tuple(kernels[group] for group in groups if len(group) > 1)
    assert are_compatible(fused)  # no operator is launched twice
    grouping = grouping_of(problem, fused)
    number_of = {members: number for number, members in enumerate(grouping.groups)}
    sequence = tuple(number_of[group] for group in groups)
    done: set[int] = set()
    for number in sequence:
        missing = set(grouping.before[number]) - done
        if missing:
            early = problem.operators[grouping.groups[number][0]].name
            late = problem.operators[grouping.groups[min(missing)][0]].name
            raise StrategyError("order", "launches", f"launches {early} before {late}, which it waits for")
        done.add(number)
    return replay(problem, grouping, sequence)


def _check_names(index_of: dict[str, int], order: PassOrder) -> None:
    names = set(order.names())
    for name in sorted(names - index_of.keys()):
        raise StrategyError("order", "launches", f"{name} is no operator of this pass")
    for name in index_of:
        if name not in names:
            raise StrategyError("order", "launches", f"{name} is not launched")


def serial_timeline(problem: PassProblem) -> PassTimeline:
    """The pass without any overlap: its operators one after another, in program order."""
    spans: list[OperatorSpan] = []
    now_s = 0.0
    for op, time_s, link in zip(problem.operators, problem.time_s, problem.link, strict=True):
        spans.append(
            OperatorSpan(
                name=op.name,
                stream=op.resource,
                start_s=now_s,
                end_s=now_s + time_s,
                module=op.module,
                phase=op.phase,
                recomputes=op.recomputes,
                is_communication=op.is_communication,
                fused_with=(),
                num_sms=0 if link == NO_LINK else problem.num_sms[link],
            )
        )
        now_s += time_s
    return PassTimeline(spans=tuple(spans), end_s=now_s)
