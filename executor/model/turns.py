"""The forward of one stage beside the backward of another, both of a rank: layers of one kind in one pass (DualPipe).

Which layers meet is the cost model's (`costmodel.beside`), so that what a plan saves is what its run saves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from meshwright.costmodel.beside import Turn, turns_of
from meshwright.costmodel.program.operators import Operator
from meshwright.executor.model.part import Part
from meshwright.executor.model.stage_passes import BackwardPass, ForwardPass, PartPass, Watch


def turns(forward: Sequence[Part], backward: Sequence[Part]) -> tuple[Turn, ...]:
    """In which turns two orders of parts go on, so that most meet one of their kind."""
    return turns_of(forward, backward, _meet)


def _meet(one: Part, other: Part) -> bool:
    return one.joint is not None and other.joint is not None and one.description.is_like(other.description)


def run_beside(forward: ForwardPass, backward: BackwardPass, order: Sequence[Turn]) -> None:
    """Run both in these turns."""
    watch = forward.setting.watch
    for is_forward, is_backward in order:
        if is_forward and is_backward:
            with forward.next_part() as one, backward.next_part() as other:
                _run_joint(one, other, watch)
        else:
            with (forward if is_forward else backward).next_part() as alone:
                alone.run(watch, beside=is_forward)


def _run_joint(forward: PartPass, backward: PartPass, watch: Watch | None) -> None:
    joint = backward.part.joint
    assert joint is not None  # the parts meet
    around = None if watch is None else _Around(forward, backward, watch)
    joint.run(forward.batch, backward.batch, around)


class _Around:
    """Tells a watch of every operator of a joint pass as one of the pass that it belongs to."""

    def __init__(self, forward: PartPass, backward: PartPass, watch: Watch) -> None:
        assert backward.part.joint is not None  # the parts meet
        self._joint, self._watch = backward.part.joint, watch
        self._passes = {True: forward, False: backward}
        self._streams = {True: self._joint.forward_streams, False: self._joint.backward_streams}
        self._in_forward: bool | None = None

    def __call__(self, operator: Operator, run: Callable[[], None]) -> None:
        is_forward = operator.name in self._joint.forward
        if is_forward is not self._in_forward:
            one = self._passes[is_forward]
            self._watch.enter(one.part.title, one.kind, one.micro_batch, self._streams[is_forward], beside=is_forward)
            self._in_forward = is_forward
        self._watch.around(self._joint.own(operator), run)
