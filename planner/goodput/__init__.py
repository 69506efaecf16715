"""From one step to a whole training run: slow and jittery steps, failures, days and cost to a number of tokens.

`step_spread`: step times under jitter, by simulating many pipelines. `interruptions`: failures, checkpoints and
restarts in closed form; `monte_carlo`: the same, run by run at random. `outlook`: all of it, with days and cost.
"""

from __future__ import annotations

from meshwright.planner.goodput.interruptions import Interruptions, interruptions
from meshwright.planner.goodput.monte_carlo import SimulatedRuns, simulate_runs
from meshwright.planner.goodput.outlook import Budget, RoutingOutlook, TrainingOutlook, training_outlook
from meshwright.planner.goodput.step_spread import StepSpread, step_spread

__all__ = [
    "Budget",
    "Interruptions",
    "RoutingOutlook",
    "SimulatedRuns",
    "StepSpread",
    "TrainingOutlook",
    "interruptions",
    "simulate_runs",
    "step_spread",
    "training_outlook",
]
