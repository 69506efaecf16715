"""The exact event simulation of one training step: a schedule is data, a step is a longest path.

What is simulated. One data-parallel replica: `num_stages` devices, each with a few chunks of the model (virtual
stages), run `num_micro_batches` micro-batches forward and backward. Transfers between virtual stages, parameter
gathers before a chunk's first forward, gradient reductions after its last backward, a barrier and the optimizer lie
where they really run. The other replicas do the same at the same time, so neither time nor memory grows with them.

Why there is no clock and no heap. In all of today's pipelines a device runs its actions in an order that is fixed
before the step; only *when* is open. Then an event is never chosen, it only happens at the latest of what it waits for,
plus a delay, and one pass in topological order gives the times that a simulator with a clock would (`event_graph`, a
loop of six lines). What a heap would add, ties broken by a running number, cannot arise here.

What that buys. Every delay is a sum of duration terms (`terms`), so the step time is the maximum over the graph's paths
of functions that are linear in the terms. The longest path at some durations (`critical_path`) is the step time there
and a lower bound of it everywhere else: a cutting plane for a solver, and for people the answer to "what is this step
made of". Stretching a term never shortens a step, unless the term is a saving.

The parts, each of one idea:

    actions, schedule      words and value: who runs what in which order; legal and free of deadlock if it exists
    schedules/             one family a module, each with its paper; orders equal to torch.distributed.pipelining's
    terms, durations       what a step's time is made of; seconds of it; coefficients of a path
    event_graph            the engine: events with two predecessors, delays by class, longest path
    slot_delays, data_parallel, step_graph      a schedule's events: compute, communication, the whole step
    run, timeline, in_flight                    results: step time and paths, spans and bubbles, activations held

What it leaves out, on purpose. Transfers do not contend with each other or with collectives: contention belongs to the
durations that are put in. A blocking transfer costs both sides its time but is no rendezvous: a sender does not wait
for a receiver that is late, as with eager sends. Within a chunk, layers with their buckets are a flow shop of equal
jobs; how far a backward has come inside an overlapped forward-and-backward pair is taken as unknown until its end.
"""

from __future__ import annotations

from meshwright.costmodel.simulate.durations import CutCoefficients, Durations, chunk_durations, durations_of
from meshwright.costmodel.simulate.in_flight import Held, in_flight, in_flight_held
from meshwright.costmodel.simulate.overlap import OVERLAP_ALL, OverlapPolicy
from meshwright.costmodel.simulate.run import critical_path, lower_bound_paths, simulate, step_time_s
from meshwright.costmodel.simulate.schedule import Schedule, ScheduleKind
from meshwright.costmodel.simulate.schedules import build_schedule, check_combination
from meshwright.costmodel.simulate.terms import Term, TermLayout
from meshwright.costmodel.simulate.timeline import Span, SpanKind, StepTimeline

__all__ = [
    "OVERLAP_ALL",
    "CutCoefficients",
    "Durations",
    "Held",
    "OverlapPolicy",
    "Schedule",
    "ScheduleKind",
    "Span",
    "SpanKind",
    "StepTimeline",
    "Term",
    "TermLayout",
    "build_schedule",
    "check_combination",
    "chunk_durations",
    "critical_path",
    "durations_of",
    "in_flight",
    "in_flight_held",
    "lower_bound_paths",
    "simulate",
    "step_time_s",
]
