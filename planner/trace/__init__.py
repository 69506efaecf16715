"""A whole step as a trace that Perfetto (ui.perfetto.dev) and chrome://tracing show.

One process for each pipeline stage, which stands for all its GPUs: they do the same at the same time. Its threads:

    micro-batches            a slice for each action of the schedule, inside it one for each layer
    compute, NVLink, ...     the operators of those layers, on the streams they run on
    data-parallel            parameter gathers and gradient reductions

Arrows follow a micro-batch through the stages, forward and back. Counters show what a stage's GPUs hold: activations
from the start of a micro-batch's forward to the end of its last backward, as the predicted peak counts them.

The parts: `pieces` and `action_runs` say of which layers' passes an action consists, `action_slices` lays their
operators into its time, `memory_counters` and `stage_events` make the events, `step_trace` puts them together.
"""

from __future__ import annotations

from meshwright.planner.trace.step_trace import step_trace, write_trace

__all__ = ["step_trace", "write_trace"]
