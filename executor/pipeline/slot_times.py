"""When a plan has which slot of its pipeline: by these times messages are put in order (`instructions.py`)."""

from __future__ import annotations

import torch
import torch.distributed as dist

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.simulate import simulate
from meshwright.costmodel.step import schedule_of, step_inputs, step_overlap
from meshwright.executor.layer.groups import Communicator
from meshwright.executor.pipeline.instructions import SlotTimes


def planned_slot_times_s(configuration: TrainingConfiguration) -> SlotTimes:
    """Begin and end of every slot of every device, as the simulation of the step has them."""
    schedule = schedule_of(configuration)
    timeline = simulate(schedule, step_inputs(configuration, schedule)[1], step_overlap(configuration))
    return tuple(map(timeline.slot_times_s, range(schedule.num_stages)))


def agreed_slot_times_s(times_s: SlotTimes, ranks: Communicator, device: torch.device) -> SlotTimes:
    """Those of the first of these ranks.

    On processors of different types the same sums may end in different last bits, and what is planned for the same time
    would then be in a different order.
    """
    if ranks.size == 1:
        return times_s
    flat = torch.tensor([slot for slots in times_s for slot in slots], dtype=torch.float64, device=device)
    dist.broadcast(flat, group=ranks.group, group_src=0)
    parts = flat.cpu().split([len(slots) for slots in times_s])
    return tuple(tuple((begin_s, end_s) for begin_s, end_s in part.tolist()) for part in parts)
