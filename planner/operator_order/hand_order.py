"""The order that MegaScale-MoE's authors wrote by hand, as a fixed schedule: the measure of a solved order.

Source: MegaScale-MoE (arXiv 2505.11432), section 4.1. Each communication has a stream of its own; the main path keeps
program order; recomputation of SwiGLU hides under the all-gather of the output's gradient, that of a norm under the
communication before it, the gather of tokens again under the dgrad of FC2, wgrad under communication. Section 4.2 fuses
pairs of communication and product. What the paper leaves open is decided the same way for every model: shared experts
hide under dispatch and combine, and which wgrad goes under which communication stands in the tables below.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import NamedTuple

from meshwright.costmodel.order.fusion import FusedPair
from meshwright.costmodel.order.grouping import Grouping, are_compatible, grouping_of
from meshwright.costmodel.order.launch_order import PassOrder
from meshwright.costmodel.order.ordered_pass import OrderedPass
from meshwright.costmodel.order.pass_problem import PassProblem
from meshwright.costmodel.order.run_order import replay
from meshwright.costmodel.program.operators import BESIDE, Operator, Pass

_HOPS = (".network", ".nvlink", ".etp")
"""Suffixes of the steps of an exchange that takes several."""


class _Anchor(NamedTuple):
    """A place in program order: behind (`under` a communication) or before (`ahead` of a product) an operator."""

    name: str
    is_behind: bool


def _under(*names: str) -> tuple[_Anchor, ...]:
    return tuple(_Anchor(name, True) for name in names)


def _ahead(*names: str) -> tuple[_Anchor, ...]:
    return tuple(_Anchor(name, False) for name in names)


_Table = dict[str, tuple[_Anchor, ...]]

_FORWARD: _Table = {
    "shared_fc1": _under("dispatch"),
    "shared_activation": _under("dispatch"),
    "shared_fc2": _under("combine"),
}

_FORWARD_SPLIT_SHARED: _Table = {
    "all_gather.shared_ln2_out": _ahead("experts_fc1", "experts_activation"),
    "shared_fc1": _ahead("experts_fc2"),
    "shared_activation": _ahead("experts_fc2"),
    "shared_fc2": _ahead("experts_fc2"),
    "reduce_scatter.shared_out": _ahead("experts_fc2"),
}
"""Shared experts that communicate themselves: their gather hides under FC1, their reduce-scatter under FC2."""

_BACKWARD: _Table = {
    "norm2": _under("combine.backward"),
    "shared_activation": _under("combine.backward"),
    "experts_activation": _under("combine.backward"),
    "dispatch": _ahead("experts_fc2.dgrad", "experts_fc2.wgrad"),
    "sort": (*_under("dispatch.backward"), *_ahead("experts_fc1.wgrad")),
    "experts_fc2.wgrad": _under("dispatch.backward"),
    "experts_fc1.wgrad": _under("all_gather.grad_attn_out", "all_to_all.grad_attn"),
    "norm1": _under("all_gather.grad_attn_out", "all_to_all.grad_qkv"),
    "all_to_all.attn": _ahead("experts_fc1.dgrad", "experts_fc1.wgrad"),
    "all_gather.ln1_out": _ahead("attention.dgrad"),
    "attn_projection.wgrad": _under("all_to_all.grad_qkv", "reduce_scatter.grad_ln1_out"),
    "qkv.wgrad": _under("reduce_scatter.grad_ln1_out"),
}

_BACKWARD_OWN_SHARED: _Table = {
    "shared_fc2.dgrad": _under("combine.backward"),
    "shared_activation.backward": _under("combine.backward"),
    "shared_fc1.dgrad": _under("combine.backward"),
}
"""Shared experts that do not communicate: their dgrad needs nothing but the output's gradient."""

_BACKWARD_SPLIT_SHARED: _Table = {
    "all_gather.shared_ln2_out": _ahead("experts_fc1.dgrad", "experts_fc1.wgrad"),
    "all_gather.grad_shared_out": _ahead("experts_fc2.dgrad"),
}


def hand_order(problem: PassProblem, *, fused: bool) -> OrderedPass:
    """The pass in the order written by hand, replayed.

    `fused`: with every fused kernel that the runtime has (intra-operator overlap), else with none (inter-operator).
    A forward and a backward that run beside each other follow one another: the paper's overlap stays within one
    micro-batch. Operators that the tables do not name stay where the program has them.
    """
    grouping = grouping_of(problem, _all_pairs(problem) if fused else ())
    sequence = _sequence(grouping, _places(problem, grouping))
    return OrderedPass(problem=problem, run=replay(problem, grouping, sequence))


def hand_pass_order(problem: PassProblem, *, fused: bool) -> PassOrder:
    """The order written by hand as a value that a plan can store. Its `gap` says nothing: nobody looked for better."""
    return hand_order(problem, fused=fused).order()


def _all_pairs(problem: PassProblem) -> tuple[FusedPair, ...]:
    """Every pair, in program order, that shares no operator with one before it."""
    chosen: tuple[FusedPair, ...] = ()
    for pair in problem.pairs:
        if are_compatible((*chosen, pair)):
            chosen = (*chosen, pair)
    return chosen


def _places(problem: PassProblem, grouping: Grouping) -> list[tuple[int, float]]:
    """Where each launch stands: its micro-batch (that of the forward first), then a place in program order."""
    alone = {members[0] for members in grouping.groups if len(members) == 1}
    places = [(_round(op), float(index)) for index, op in enumerate(problem.operators)]
    for which in dict.fromkeys(place[0] for place in places):
        mine = {_base(op): index for index, op in enumerate(problem.operators) if _round(op) == which}
        for name, anchors in _table(problem, mine).items():
            index = mine.get(name)
            if index is not None and index in alone:
                places[index] = (which, _resolved(anchors, mine, alone, index))
    return [places[members[0]] for members in grouping.groups]


def _round(op: Operator) -> int:
    return 0 if op.name.startswith(BESIDE) else 1


def _base(op: Operator) -> str:
    """The operator's name in a pass that stands alone; the steps of one exchange have one name."""
    name = op.name.removeprefix(BESIDE)
    for suffix in _HOPS:
        name = name.removesuffix(suffix)
    return name


def _resolved(anchors: tuple[_Anchor, ...], mine: dict[str, int], alone: set[int], index: int) -> float:
    """The place of the first anchor that is there and not part of a fused kernel; else where the operator stands."""
    for anchor in anchors:
        at = mine.get(anchor.name)
        if at is not None and at in alone:
            return at + (0.5 if anchor.is_behind else -0.5)
    return float(index)


def _table(problem: PassProblem, mine: dict[str, int]) -> _Table:
    """What moves in this pass."""
    is_forward = all(problem.operators[index].phase is Pass.FORWARD for index in mine.values())
    splits_shared = any(name.startswith("reduce_scatter.shared") for name in mine)
    if is_forward:
        return _FORWARD_SPLIT_SHARED if splits_shared else _FORWARD
    table = {**_BACKWARD, **(_BACKWARD_SPLIT_SHARED if splits_shared else _BACKWARD_OWN_SHARED)}
    gathers_first = mine.get("permute", -1) > mine.get("dispatch", -1)
    table["permute"] = table["sort"] if gathers_first else table["norm2"]
    return table


def _sequence(grouping: Grouping, places: list[tuple[int, float]]) -> tuple[int, ...]:
    """Launches by place, each behind all that it waits for."""
    waiting = [len(before) for before in grouping.before]
    ready = [(places[number], number) for number, count in enumerate(waiting) if count == 0]
    heapify(ready)
    sequence = []
    while ready:
        number = heappop(ready)[1]
        sequence.append(number)
        for next_ in grouping.after[number]:
            waiting[next_] -= 1
            if waiting[next_] == 0:
                heappush(ready, (places[next_], next_))
    return tuple(sequence)
