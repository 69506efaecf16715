"""What the software that executes a plan overlaps, fuses and stores: a small, documented description a framework.

A prediction is for a model, a cluster, a strategy *and* a runtime. Meshwright's own executor is one runtime;
Megatron-LM, PyTorch FSDP and others are described the same way, so that their published runs can be predicted. The
descriptions are data: `costmodel/runtimes/*.json`.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files

import msgspec

from meshwright.costmodel.errors import InputError
from meshwright.costmodel.overlap import LayerOverlap
from meshwright.costmodel.tables import AttentionBackend
from meshwright.costmodel.value import Value


class RuntimeSpec(Value, frozen=True, kw_only=True):
    """What a framework does, beyond the strategy.

    name, source: who, and where each setting is documented.
    overlap: what communication may hide under inside a layer.
    attention_backend: the attention kernels it calls.
    fused_kernels: norms, RoPE, activation and cross-entropy are single kernels.
    custom_kernels: Meshwright's CUDA kernels choose experts, move rows and compute SwiGLU, where a profile has them.
    cuda_graphs: the kernels of a layer are launched from a graph.
    fp32_gradients: wgrad accumulates into FP32 buffers.
    fp32_gradients_of_whole: so do gradients of parameters that stay whole between passes (all but ZeRO-3); in a
        pipeline wgrad accumulates into them.
    gate_before_fc2: the gate weight multiplies the FC2 input, so that the FC2 output is not kept.
    gradient_reduce_bytes, parameter_gather_bytes: bytes per element of the data-parallel collectives.
    overlap_gradient_reduce, overlap_parameter_gather: those collectives run beside computation.
    overlap_pipeline: stage-to-stage messages block no computation.
    overlap_single_chunk: nor do they where devices have one virtual stage each.
    attention_time_factor: time of its attention over that of the backend, where it has kernels of its own.
    step_host_s_per_layer: seconds once a step in which the GPU waits for the host, which clips and updates a layer's
        parameter tensors one by one.
    host_operators_per_kernel: framework operators the host issues for one kernel, a factor on its launch time.
    routing_wait_s: seconds for each expert of a rank that a forward waits for the host, which must read how many tokens
        the expert gets before it can launch its products and what follows (dropless routing).
    expert_load_deviation: relative standard deviation of the load of one expert in one micro-batch, where routing is
        not forced to balance; how uneven ranks are follows from it (`formulas.experts.expected_imbalance`).
    gpu_speed_deviation: relative standard deviation of how fast GPUs of one type compute (power limit, temperature);
        a step waits for the slowest of all (`formulas.stragglers.slowest_gpu_factor`).
    pipeline_wait_s: seconds that a pass of a virtual stage waits for the host to receive its input from another
        stage and to send its output on, where messages overlap with computation.
    graphed_modules: modules of a layer whose kernels are launched from a CUDA graph while others are not.
    launches_per_expert: kernels launched for each expert of a grouped product; 0: one kernel for all of them.
    fp8_tensor_gather: with FP8 products, what tensor-parallel ranks gather travels as quantized, one byte a value.
    copy_engine_overlap: what overlaps over NVLink inside a layer is moved by copy engines or four SMs at most.
    gathers_each_product: every product behind a tensor-parallel gather gathers its input by itself.
    logits_fp32_copies: FP32 copies of the logits that the loss holds at its peak, beside the BF16 ones.
    gathers_logits: tensor-parallel ranks gather the logits of the whole vocabulary for the loss.
    accumulates_unsharded: where gradients are sharded, they are reduced once a step and held whole until then.
    optimizer_state_bytes: bytes that the optimizer holds for each parameter (12: FP32 master weight, two moments).
    adds_grouped_gradients: gradients of grouped products are written in 16 bits, and added to the FP32 buffers by a
        kernel of its own.
    reduces_by_all_to_all: 16-bit reductions of sharded gradients are an all-to-all; a kernel before it rounds the
        buffers, one behind it sums what arrives in FP32.
    gradient_slots: layers whose whole gradients have room of their own, in the format in which they travel, where
        gradients are sharded and not accumulated.
    gradient_copy_bytes: bytes a parameter of a layer's gradients that backward writes there before they are copied to
        such a slot.
    norm_reads_gradients: a pass over the reduced gradients finds their norm, before the update reads them.
    one_pass_update: clipping, Adam and rounding to the weights are one kernel, as fast as adding a residual.
    sums_whole_ends: gradients of a table that the first and the last pipeline stage both hold are summed over the two
        whole, not by the shards of their data-parallel reduction.
    not_run: parts of models and number formats that it does not run (`runtime_limits`); no plan is made with them.
    """

    name: str
    source: str
    overlap: LayerOverlap = LayerOverlap()
    attention_backend: AttentionBackend = AttentionBackend.BEST
    fused_kernels: bool = True
    custom_kernels: bool = False
    cuda_graphs: bool = False
    fp32_gradients: bool = True
    fp32_gradients_of_whole: bool = False
    gate_before_fc2: bool = True
    gradient_reduce_bytes: int = 4
    parameter_gather_bytes: int = 2
    overlap_gradient_reduce: bool = True
    overlap_parameter_gather: bool = True
    overlap_pipeline: bool = True
    overlap_single_chunk: bool = True
    attention_time_factor: float = 1.0
    step_host_s_per_layer: float = 0.0
    host_operators_per_kernel: float = 1.0
    routing_wait_s: float = 0.0
    expert_load_deviation: float = 0.0
    gpu_speed_deviation: float = 0.0
    pipeline_wait_s: float = 0.0
    graphed_modules: tuple[str, ...] = ()
    launches_per_expert: int = 0
    fp8_tensor_gather: bool = False
    copy_engine_overlap: bool = False
    gathers_each_product: bool = False
    logits_fp32_copies: int = 0
    gathers_logits: bool = False
    accumulates_unsharded: bool = False
    optimizer_state_bytes: int = 12
    adds_grouped_gradients: bool = False
    reduces_by_all_to_all: bool = False
    norm_reads_gradients: bool = False
    one_pass_update: bool = False
    gradient_slots: int = 0
    gradient_copy_bytes: int = 0
    sums_whole_ends: bool = False
    not_run: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("attention_time_factor", "host_operators_per_kernel"):
            _require(name, getattr(self, name) > 0, getattr(self, name), "a positive number")
        for name in NOT_NEGATIVE:
            _require(name, getattr(self, name) >= 0, getattr(self, name), "a number >= 0")
        for name in ("gradient_reduce_bytes", "parameter_gather_bytes"):
            _require(name, getattr(self, name) in (1, 2, 4), getattr(self, name), "1, 2 or 4")


NOT_NEGATIVE = (
    "step_host_s_per_layer",
    "routing_wait_s",
    "expert_load_deviation",
    "gpu_speed_deviation",
    "pipeline_wait_s",
    "launches_per_expert",
    "logits_fp32_copies",
    "optimizer_state_bytes",
    "gradient_slots",
    "gradient_copy_bytes",
)


def _require(field: str, holds: bool, value: float, expected: str) -> None:
    if not holds:
        raise InputError("runtime", field, f"{value} is not {expected}")


def runtime_names() -> tuple[str, ...]:
    """Names of the shipped runtime descriptions."""
    folder = files("meshwright.costmodel").joinpath("runtimes")
    return tuple(sorted(entry.name.removesuffix(".json") for entry in folder.iterdir()))


@lru_cache(maxsize=64)
def load_runtime(name: str) -> RuntimeSpec:
    """The shipped description of that name; an `InputError` lists the known ones."""
    if name not in runtime_names():
        raise InputError("runtime", "name", f"{name!r} is unknown; expected one of {', '.join(runtime_names())}")
    data = files("meshwright.costmodel").joinpath("runtimes", f"{name}.json").read_bytes()
    return msgspec.json.decode(data, type=RuntimeSpec)
