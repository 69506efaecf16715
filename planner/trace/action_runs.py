"""What a slot of the schedule runs one after another: passes of layers, each with its operators' times."""

from __future__ import annotations

from collections.abc import Iterator

from meshwright.costmodel.beside import turns_of
from meshwright.costmodel.layer_cost import Terms
from meshwright.costmodel.order.timeline import PassTimeline
from meshwright.costmodel.simulate.actions import ActionKind, Slot
from meshwright.costmodel.value import Value
from meshwright.planner.trace.pieces import Piece

EMPTY = PassTimeline(spans=(), end_s=0.0)
PASS_OF = {
    ActionKind.FORWARD: "forward",
    ActionKind.BACKWARD: "backward",
    ActionKind.BACKWARD_INPUT: "dgrad",
    ActionKind.BACKWARD_WEIGHT: "wgrad",
}
WAITS = {
    "host_s": "host",
    "exposed_pcie_s": "offload",
    "exposed_nvlink_s": "sharded state",
    "exposed_network_s": "sharded state",
}


class Run(Value, frozen=True, kw_only=True):
    """A pass of a layer. It lasts `time_s`; what its operators leave of that goes to `waits_for`."""

    name: str
    time_s: float
    timeline: PassTimeline
    waits_for: str = ""


def slot_runs(slot: Slot, chunks: tuple[tuple[Piece, ...], ...]) -> tuple[Run, ...]:
    """The runs of a slot; `chunks` are the pieces of the device's virtual stages."""
    if len(slot) == 1:
        (action,) = slot
        return tuple(_action_runs(action.kind, chunks[action.chunk]))
    forward, backward = slot
    return tuple(_joint_runs(chunks[forward.chunk], chunks[backward.chunk]))


def _action_runs(kind: ActionKind, pieces: tuple[Piece, ...]) -> Iterator[Run]:
    """A forward runs the pieces in order, a backward in reverse."""
    for piece in pieces if kind is ActionKind.FORWARD else reversed(pieces):
        yield from _piece_runs(kind, piece)


def _piece_runs(kind: ActionKind, piece: Piece) -> Iterator[Run]:
    if kind is ActionKind.BACKWARD and piece.timelines.backward is None:
        yield from _piece_runs(ActionKind.BACKWARD_INPUT, piece)
        yield from _piece_runs(ActionKind.BACKWARD_WEIGHT, piece)
        return
    name = PASS_OF[kind]
    terms: Terms = getattr(piece.cost, name)
    timeline: PassTimeline = getattr(piece.timelines, name) or EMPTY
    yield Run(
        name=f"{piece.name} {name}",
        time_s=terms.total_s,
        timeline=timeline,
        waits_for=_waits_for(terms) if terms.total_s > timeline.end_s else "",
    )


def _waits_for(terms: Terms) -> str:
    return ", ".join(dict.fromkeys(words for term, words in WAITS.items() if getattr(terms, term) > 0.0))


def _joint_runs(forward: tuple[Piece, ...], backward: tuple[Piece, ...]) -> Iterator[Run]:
    """Forward and backward of two micro-batches at once: like pieces together, the rest one after another."""
    backwards, forwards = iter(tuple(reversed(backward))), iter(forward)
    for is_forward, is_backward in turns_of(forward, tuple(reversed(backward)), _meet):
        one, other = (next(forwards) if is_forward else None), (next(backwards) if is_backward else None)
        if one is not None and other is not None and one.cost.overlap_saving_s:
            yield _joint_run(one, other)
            continue
        if one is not None:
            yield from _piece_runs(ActionKind.FORWARD, one)
        if other is not None:
            yield from _piece_runs(ActionKind.BACKWARD, other)


def _meet(forward: Piece, backward: Piece) -> bool:
    return forward.is_like(backward) and forward.timelines.joint is not None


def _joint_run(forward: Piece, backward: Piece) -> Run:
    cost = forward.cost
    apart_s = cost.forward.total_s + cost.dgrad.total_s + cost.wgrad.total_s
    assert forward.timelines.joint is not None  # the pieces meet
    return Run(
        name=f"{forward.name} forward beside {backward.name} backward",
        time_s=apart_s - cost.overlap_saving_s,
        timeline=forward.timelines.joint,
    )
