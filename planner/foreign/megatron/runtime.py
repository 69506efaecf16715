"""What Megatron-LM's arguments say about overlap, kernels, formats and the sharding of model state."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from meshwright.costmodel.data_parallel import Sharding
from meshwright.costmodel.formulas.memory import BF16_BYTES
from meshwright.costmodel.program.operators import Precision
from meshwright.costmodel.runtime import RuntimeSpec
from meshwright.costmodel.strategy import Dispatch, ZeroStage
from meshwright.costmodel.tables import AttentionBackend
from meshwright.planner.foreign.megatron.model import num_experts
from meshwright.planner.foreign.megatron.recompute import unmodelled_recompute
from meshwright.planner.foreign.megatron.stages import layout
from meshwright.planner.foreign.printed import PrintedOptions, described_dispatch, described_runtime
from meshwright.planner.foreign.settings import Settings, UnmodelledUse

RUNTIME = "megatron"
ATTENTION = {"auto": "cudnn", "fused": "cudnn", "flash": "fa2"}
FSDP_STRATEGIES = {
    "no_shard": ZeroStage.NONE,
    "optim": ZeroStage.OPTIMIZER,
    "optim_grads": ZeroStage.GRADIENTS,
    "optim_grads_params": ZeroStage.PARAMETERS,
}
FP8_PARAMETER_BYTES = 1


def precision_of(settings: Settings) -> Precision:
    """Number format of the products."""
    return Precision.FP8 if settings.has("fp8_format") else Precision.BF16


def runtime_of(settings: Settings) -> RuntimeSpec:
    """Megatron-LM's description with what the arguments change."""
    changes: dict[str, Any] = {
        "overlap_gradient_reduce": overlaps_gradients(settings),
        "overlap_parameter_gather": overlaps_parameters(settings),
        "overlap_pipeline": settings.on("overlap_p2p_comm"),
        "attention_backend": AttentionBackend(ATTENTION.get(attention_backend(settings), "cudnn")).value,
        "cuda_graphs": captures_layers(settings),
    }
    if settings.has("fp8_format") and settings.on("fp8_param_gather"):
        changes["parameter_gather_bytes"] = FP8_PARAMETER_BYTES
    if shards_with_fsdp(settings):  # a unit's whole gradients, which PyTorch's writes in BF16 first
        changes["gradient_slots"] = 1
        changes["gradient_copy_bytes"] = BF16_BYTES if settings.on("use_torch_fsdp2") else 0
    return described_runtime(_printed(settings), changes)


def dispatch_of(settings: Settings) -> Dispatch:
    """How tokens reach their experts."""
    if settings.text("moe_token_dispatcher_type") == "allgather":
        return Dispatch.ALL_GATHER
    return described_dispatch(_printed(settings))


def _printed(settings: Settings) -> PrintedOptions:
    """The arguments in the words of the published runs."""
    words = {
        "userbuffer": settings.on("tp_comm_overlap"),
        "bf16 grad sync": not fp32_gradients(settings),
        "A2A overlap": settings.on("overlap_moe_expert_parallel_comm"),
        "DeepEP": settings.text("moe_token_dispatcher_type") == "flex",
    }
    routing = {
        "token drop": settings.has("moe_expert_capacity_factor"),
        "force balance": settings.on("moe_router_force_load_balancing"),
    }
    return PrintedOptions(
        framework=RUNTIME,
        precision=precision_of(settings).value,
        words="; ".join(word for word, printed in words.items() if printed),
        routing="; ".join(word for word, printed in routing.items() if printed),
    )


def fp32_gradients(settings: Settings) -> bool:
    """Whether gradients are accumulated and reduced in FP32, which is what BF16 training does unless told otherwise."""
    if settings.on("grad_reduce_in_bf16"):
        return False
    wide = settings.on("bf16") and settings.text("main_grads_dtype") == "fp32"
    return wide or settings.on("accumulate_allreduce_grads_in_fp32")


def shards_with_fsdp(settings: Settings) -> bool:
    """Whether one of the FSDPs shards the model state; both overlap their collectives by design."""
    return settings.on("use_megatron_fsdp") or settings.on("use_torch_fsdp2")


def overlaps_gradients(settings: Settings) -> bool:
    """Whether gradient reductions run beside the backward."""
    return settings.on("overlap_grad_reduce") or shards_with_fsdp(settings)


def overlaps_parameters(settings: Settings) -> bool:
    """Whether parameter gathers run beside the forward."""
    return settings.on("overlap_param_gather") or shards_with_fsdp(settings)


def attention_backend(settings: Settings) -> str:
    """The attention implementation that is asked for."""
    asked = settings.text("attention_backend")
    return "flash" if asked == "auto" and settings.on("use_flash_attn") else asked


def captures_layers(settings: Settings) -> bool:
    """Whether whole layers are launched from CUDA graphs."""
    graphs = settings.text("cuda_graph_impl") != "none" or any(
        settings.on(name) for name in ("enable_cuda_graph", "external_cuda_graph")
    )
    return graphs and set(settings.words("cuda_graph_modules")) <= {"full", "full_iteration"}


def sharding_of(settings: Settings, replicas: int) -> Sharding:
    """What data-parallel ranks share; `replicas` is dp x cp."""
    if settings.on("use_megatron_fsdp"):
        zero = FSDP_STRATEGIES[settings.text("data_parallel_sharding_strategy")]
    elif settings.on("use_torch_fsdp2"):
        zero = ZeroStage.PARAMETERS if settings.on("torch_fsdp2_reshard_after_forward") else ZeroStage.GRADIENTS
    else:
        zero = ZeroStage.OPTIMIZER if settings.on("use_distributed_optimizer") else ZeroStage.NONE
    instances = settings.integer("num_distributed_optimizer_instances")
    return Sharding(
        zero=zero,
        shard_degree=replicas // instances if instances > 1 else 0,
        offload_optimizer=offloads_optimizer(settings),
    )


def offloads_optimizer(settings: Settings) -> bool:
    """Whether the optimizer's state lives in host memory, all of it."""
    return settings.on("optimizer_cpu_offload") and settings.number("optimizer_offload_fraction") == 1.0


def unmodelled_settings(settings: Settings) -> tuple[UnmodelledUse, ...]:
    """Settings, given or not, with which a run differs from what is predicted, and how."""
    uses = [UnmodelledUse(option=option, why=why) for holds, option, why in _differences(settings) if holds]
    return (*uses, *unmodelled_recompute(settings))


def _differences(settings: Settings) -> Iterator[tuple[bool, str, str]]:
    is_moe, factor = num_experts(settings) > 0, settings.number("moe_expert_capacity_factor")
    pads = settings.on("moe_pad_expert_input_to_capacity")
    fused = "predicted as one fused kernel"
    yield not (settings.on("bf16") or settings.on("fp16")), "no --bf16", "FP32 training; predicted as BF16"
    yield settings.text("fp8_recipe") == "mxfp8" and settings.has("fp8_format"), "--fp8-recipe mxfp8", "not on Hopper"
    wide = settings.has("fp8_format") and not settings.on("fp8_param_gather")
    yield (
        wide,
        "no --fp8-param-gather",
        "BF16 weights are kept beside their FP8 copies: 2 bytes a parameter of the products more than predicted",
    )
    yield (
        attention_backend(settings) in ("unfused", "local"),
        "--attention-backend",
        "unfused attention; predicted fused",
    )
    yield (
        settings.text("transformer_impl") == "local",
        "--transformer-impl local",
        "no Transformer Engine; predicted with",
    )
    yield not settings.on("rope_fusion"), "--no-rope-fusion", fused
    yield not settings.on("bias_swiglu_fusion"), "--no-bias-swiglu-fusion", fused
    yield not settings.on("bias_dropout_fusion"), "--no-bias-dropout-fusion", fused
    yield not settings.on("cross_entropy_loss_fusion"), "no --cross-entropy-loss-fusion", fused
    yield not settings.on("gradient_accumulation_fusion"), "--no-gradient-accumulation-fusion", "predicted with it"
    yield is_moe and not settings.on("moe_grouped_gemm"), "no --moe-grouped-gemm", "predicted as grouped products"
    yield is_moe and not settings.on("moe_permute_fusion"), "no --moe-permute-fusion", "permutation predicted as fused"
    yield (
        settings.on("moe_shared_expert_overlap"),
        "--moe-shared-expert-overlap",
        "shared experts predicted one after another",
    )
    yield (
        factor is not None and not pads and factor > 0,
        "--moe-expert-capacity-factor",
        "no dropped token is taken off the work",
    )
    placed = layout(settings) if settings.has("pipeline_model_parallel_layout") else ()
    elsewhere = any("m" in stage for stage in placed[:-1])
    yield (
        elsewhere,
        "--pipeline-model-parallel-layout",
        "prediction modules predicted in the last stage, behind the head",
    )
    yield settings.on("delay_wgrad_compute"), "--delay-wgrad-compute", "wgrad predicted beside dgrad"
    for name in ("hidden_dropout", "attention_dropout"):
        rate = settings.number(name)
        yield bool(rate), f"{settings.written(name)} {rate}", "dropout, which takes a mask; predicted without"
    yield settings.has("rampup_batch_size"), "--rampup-batch-size", "predicted at the full batch"
    yield _graphs_in_part(settings), "--cuda-graph-modules", "predicted without CUDA graphs"
    partly = settings.on("optimizer_cpu_offload") and not offloads_optimizer(settings)
    yield partly, "--optimizer-offload-fraction", "predicted on the GPU"
    yield settings.text("softmax_type") == "off-by-one", "--softmax-type off-by-one", "predicted as plain softmax"
    yield (
        settings.has("microbatch_group_size_per_virtual_pipeline_stage"),
        "--microbatch-group-size-per-virtual-pipeline-stage",
        "predicted as the pipeline's size",
    )
    yield (
        settings.text("position_embedding_type") == "relative",
        "--position-embedding-type relative",
        "predicted as rope",
    )


def _graphs_in_part(settings: Settings) -> bool:
    captured = bool(settings.words("cuda_graph_modules")) and settings.text("cuda_graph_impl") != "none"
    return captured and not captures_layers(settings)
