"""The forward of one stage beside the backward of another, both of a rank: layers of one kind in one pass (DualPipe).

As the cost model has it: what a layer's forward saves beside a backward of its kind, it saves wherever that layer is.
So as many layers as possible are to meet one of their kind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from meshwright.costmodel.program.operators import Operator
from meshwright.executor.model.part import Part
from meshwright.executor.model.stage_passes import BackwardPass, ForwardPass, PartPass, Watch

Turn = tuple[bool, bool]
"""Whether the forward takes its next part, and whether the backward does: together in one pass if both."""


def turns(forward: Sequence[Part], backward: Sequence[Part]) -> tuple[Turn, ...]:
    """In which turns two orders of parts go on, so that most meet one of their kind: a longest common subsequence."""
    alike = [[_meet(one, other) for other in backward] for one in forward]
    longest = [[0] * (len(backward) + 1) for _ in range(len(forward) + 1)]
    for i in reversed(range(len(forward))):
        for j in reversed(range(len(backward))):
            apart = max(longest[i + 1][j], longest[i][j + 1])
            longest[i][j] = max(apart, 1 + longest[i + 1][j + 1]) if alike[i][j] else apart
    found, i, j = [], 0, 0
    while i < len(forward) or j < len(backward):
        if i < len(forward) and j < len(backward) and alike[i][j] and longest[i][j] == 1 + longest[i + 1][j + 1]:
            turn = (True, True)
        else:
            is_forward = j == len(backward) or (i < len(forward) and longest[i + 1][j] >= longest[i][j + 1])
            turn = (is_forward, not is_forward)
        found.append(turn)
        i, j = i + turn[0], j + turn[1]
    return tuple(found)


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
