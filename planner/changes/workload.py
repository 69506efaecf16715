"""Keys of the workload: the batch, the sequence, the number format."""

from __future__ import annotations

from meshwright.costmodel.program.operators import Precision
from meshwright.planner.change import Change, choice, count, field, number

WORKLOAD_CHANGES: dict[str, Change] = {
    "workload.global_batch": field(count, "workload", "global_batch"),
    "workload.seq_len": field(count, "workload", "seq_len"),
    "workload.precision": field(choice(Precision), "workload", "precision"),
    "workload.expert_imbalance": field(number(1.0), "workload", "expert_imbalance"),
}
