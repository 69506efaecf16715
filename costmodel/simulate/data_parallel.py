"""Parameter gathers and gradient reductions of one step, on each device's own communication stream.

Overlapped, both are bucketed by layer, and a chunk with its buckets is a flow shop of two machines with equal jobs: it
ends no earlier than (first bucket, then all layers) and no earlier than (all buckets, then one layer), which for equal
layers is exact. The gradients of a chunk are complete in its last backward (or weight gradient) of the step.
"""

from __future__ import annotations

from meshwright.costmodel.simulate.actions import ActionKind, Slot
from meshwright.costmodel.simulate.event_graph import START, Combination, Edge, EventGraphBuilder
from meshwright.costmodel.simulate.overlap import OverlapPolicy
from meshwright.costmodel.simulate.schedule import Schedule
from meshwright.costmodel.simulate.slot_delays import DelayTable
from meshwright.costmodel.simulate.terms import Term, TermLayout
from meshwright.costmodel.value import Value


class Communication(Value, frozen=True, kw_only=True):
    """The gather (PARAM_GATHER) or reduction (GRAD_REDUCE) of a chunk, between two events."""

    term: Term
    chunk: int
    start_event: int
    end_event: int


class DataParallelEvents:
    """Adds a step's gathers and reductions; holds the tip of each device's communication stream."""

    def __init__(
        self,
        schedule: Schedule,
        layout: TermLayout,
        events: EventGraphBuilder,
        delays: DelayTable,
        overlap: OverlapPolicy,
    ) -> None:
        self._schedule, self._layout, self._events = schedule, layout, events
        self._delays, self._overlap = delays, overlap
        self._stream = [START] * schedule.num_stages
        self._gather_start: dict[tuple[int, int], int] = {}
        self._gradients: list[dict[int, tuple[int, Slot]]] = [{} for _ in range(schedule.num_stages)]
        self.communications: list[list[Communication]] = [[] for _ in range(schedule.num_stages)]

    def gather(self, device: int) -> int:
        """Gathers the chunks' parameters in the order of their first forwards; the event after which compute starts."""
        firsts = (slot[0].chunk for slot in self._schedule.order[device] if slot[0].kind is ActionKind.FORWARD)
        for chunk in dict.fromkeys(firsts):
            if self._overlap.param_gather:
                self._gather_start[device, chunk] = self._stream[device]
            self._communicate(Term.PARAM_GATHER, device, chunk, self._stream[device], ())
        return START if self._overlap.param_gather else self._stream[device]

    def parameter_edges(self, device: int, slot: Slot) -> list[Edge]:
        """What the first forward of a chunk waits for: its first bucket, and for its last layer all buckets."""
        if not self._gather_start or slot[0].kind is not ActionKind.FORWARD:
            return []
        chunk = slot[0].chunk
        start = self._gather_start.pop((device, chunk), -1)
        if start < 0:
            return []
        first_bucket = self._term(Term.PARAM_GATHER_FIRST_LAYER, device, chunk)
        all_buckets = self._term(Term.PARAM_GATHER, device, chunk)
        return [
            (start, self._events.delay(first_bucket, self._delays.duration(device, slot))),
            (start, self._events.delay(all_buckets, self._term(Term.FORWARD_LAST_LAYER, device, chunk))),
        ]

    def note_gradients(self, device: int, slot: Slot, event: int) -> None:
        """Remembers the slot that so far was the last to add to a chunk's gradients."""
        if slot[-1].kind.frees_activations:
            self._gradients[device].pop(slot[-1].chunk, None)
            self._gradients[device][slot[-1].chunk] = (event, slot)

    def reduce(self, device: int, compute_end: int) -> int:
        """Reduces the chunks' gradients in the order in which they are complete; the event of the last one's end."""
        for chunk, (complete, slot) in self._gradients[device].items():
            if self._overlap.grad_reduce:
                self._reduce_overlapped(device, chunk, complete, slot)
            else:
                start = self._events.event([(self._stream[device], 0), (compute_end, 0)])
                self._communicate(Term.GRAD_REDUCE, device, chunk, start, ())
        return self._stream[device]

    def _reduce_overlapped(self, device: int, chunk: int, complete: int, slot: Slot) -> None:
        """Starts after the last layer's gradient, ends no earlier than one bucket after the first layer's."""
        first_bucket_ready = self._events.delay(self._until_last_layer(device, slot))
        start = self._events.event([(self._stream[device], 0), (complete, first_bucket_ready)])
        last_bucket = self._events.delay(self._term(Term.GRAD_REDUCE_FIRST_LAYER, device, chunk))
        self._communicate(Term.GRAD_REDUCE, device, chunk, start, ((complete, last_bucket),))

    def _until_last_layer(self, device: int, slot: Slot) -> Combination:
        """From the slot's end back to the moment when the gradient of the chunk's last layer is complete.

        When the backward runs together with a forward, how far it has come is unknown: its end is taken.
        """
        if len(slot) > 1:
            return ()
        shares = {
            ActionKind.BACKWARD: (Term.BACKWARD_INPUT_LAST_LAYER, Term.BACKWARD_WEIGHT_LAST_LAYER),
            ActionKind.BACKWARD_WEIGHT: (Term.BACKWARD_WEIGHT_LAST_LAYER,),
        }[slot[0].kind]
        back = tuple((term, -1) for term, _ in self._delays.duration(device, slot))
        return (*back, *(self._pair(share, device, slot[0].chunk) for share in shares))

    def _communicate(self, term: Term, device: int, chunk: int, start: int, edges: tuple[Edge, ...]) -> None:
        """Occupies the device's communication stream for the whole gather or reduction of a chunk."""
        end = self._events.event([(start, self._events.delay(self._term(term, device, chunk))), *edges])
        self._stream[device] = end
        self.communications[device].append(Communication(term=term, chunk=chunk, start_event=start, end_event=end))

    def _term(self, term: Term, device: int, chunk: int) -> Combination:
        return (self._pair(term, device, chunk),)

    def _pair(self, term: Term, device: int, chunk: int) -> tuple[int, int]:
        return (self._layout.chunk(term, device, chunk), 1)
