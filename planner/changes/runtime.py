"""Keys of the runtime: which framework runs the plan, and what that framework does otherwise.

A runtime by its name brings all its settings; single settings then differ from it.
"""

from __future__ import annotations

import msgspec

from meshwright.costmodel.overlap import OverlapLevel
from meshwright.costmodel.runtime import load_runtime, runtime_names
from meshwright.costmodel.tables import AttentionBackend
from meshwright.costmodel.units import Dimension
from meshwright.planner.change import Change, Read, choice, count, count_or_none, field, name_of, number, switch
from meshwright.planner.draft import Draft

replace = msgspec.structs.replace

OVERLAPS = ("tensor", "sequence", "context", "expert", "data")
SWITCHES = (
    "fused_kernels",
    "custom_kernels",
    "cuda_graphs",
    "fp32_gradients",
    "fp32_gradients_of_whole",
    "gate_before_fc2",
    "overlap_gradient_reduce",
    "overlap_parameter_gather",
    "overlap_pipeline",
    "overlap_single_chunk",
    "fp8_tensor_gather",
    "copy_engine_overlap",
    "gathers_each_product",
    "gathers_logits",
    "accumulates_unsharded",
    "adds_grouped_gradients",
    "reduces_by_all_to_all",
    "norm_reads_gradients",
    "one_pass_update",
    "sums_whole_ends",
)


def _put_name(draft: Draft, name: str) -> Draft:
    return draft if name == draft.runtime.name else replace(draft, runtime=load_runtime(name))


def _overlap(read: Read, name: str) -> Change:
    def put(draft: Draft, value: object) -> Draft:
        overlap = replace(draft.runtime.overlap, **{name: value})
        return replace(draft, runtime=replace(draft.runtime, overlap=overlap))

    return Change(read=read, get=lambda draft: getattr(draft.runtime.overlap, name), put=put)


def _setting(read: Read, name: str, dimension: Dimension | None = None) -> Change:
    return field(read, "runtime", name, dimension)


RUNTIME_CHANGES: dict[str, Change] = {
    "runtime.name": Change(read=name_of(runtime_names), get=lambda draft: draft.runtime.name, put=_put_name),
    "runtime.attention_backend": _setting(choice(AttentionBackend), "attention_backend"),
    **{f"runtime.{name}": _setting(switch, name) for name in SWITCHES},
    **{f"runtime.overlap_{axis}": _overlap(choice(OverlapLevel), axis) for axis in OVERLAPS},
    "runtime.fused_share": _overlap(number(0.0), "fused_share"),
    "runtime.gradient_reduce_bytes": _setting(count, "gradient_reduce_bytes"),
    "runtime.parameter_gather_bytes": _setting(count, "parameter_gather_bytes"),
    "runtime.attention_time_factor": _setting(number(0.0, above=True), "attention_time_factor"),
    "runtime.host_operators_per_kernel": _setting(number(0.0, above=True), "host_operators_per_kernel"),
    "runtime.step_host_s_per_layer": _setting(number(0.0), "step_host_s_per_layer"),
    "runtime.routing_wait_s": _setting(number(0.0), "routing_wait_s"),
    "runtime.expert_load_deviation": _setting(number(0.0), "expert_load_deviation"),
    "runtime.gpu_speed_deviation": _setting(number(0.0), "gpu_speed_deviation"),
    "runtime.pipeline_wait_s": _setting(number(0.0), "pipeline_wait_s"),
    "runtime.launches_per_expert": _setting(count_or_none, "launches_per_expert"),
    "runtime.logits_fp32_copies": _setting(count_or_none, "logits_fp32_copies"),
    "runtime.optimizer_state_bytes": _setting(count, "optimizer_state_bytes"),
}
