"""Megatron-LM's rules on features: which of its switches need or exclude each other."""

from __future__ import annotations

from collections.abc import Iterator

from meshwright.planner.foreign.megatron.model import num_experts
from meshwright.planner.foreign.megatron.recompute import granularity, modules
from meshwright.planner.foreign.megatron.stages import virtual_stages
from meshwright.planner.foreign.settings import Settings

Rule = tuple[bool, str, str, str]
RECOMPUTE_MODULES = frozenset(
    (
        "core_attn",
        "gdn_norm_out",
        "gdp_in_proj",
        "gdp_qkv",
        "layernorm",
        "mhc",
        "mla_up_proj",
        "mlp",
        "moe",
        "moe_act",
        "shared_experts",
    )
)


def feature_rules(settings: Settings, num_gpus: int) -> Iterator[Rule]:
    """All of them."""
    yield from _formats(settings)
    yield from _data_parallel(settings, num_gpus)
    yield from _attention(settings)
    yield from _recompute(settings)
    yield from _dispatch(settings)
    yield from _expert_overlap(settings)


def _formats(settings: Settings) -> Iterator[Rule]:
    yield settings.on("bf16") and settings.on("fp16"), "one number format", "--bf16 --fp16", "drop --fp16"
    gather = settings.on("fp8_param_gather")
    yield (
        gather and not settings.has("fp8_format"),
        "parameters in FP8 need FP8 training",
        "--fp8-param-gather",
        "--fp8-format hybrid",
    )
    sharded = any(settings.on(name) for name in ("use_distributed_optimizer", "use_megatron_fsdp", "use_torch_fsdp2"))
    yield (
        gather and not sharded,
        "parameters are gathered in FP8 by a sharding optimizer only",
        "--fp8-param-gather",
        "--use-distributed-optimizer",
    )
    yield (
        settings.on("tp_comm_overlap") and not settings.on("sequence_parallel"),
        "overlap of tensor-parallel communication needs sequence parallelism",
        "--tp-comm-overlap",
        "--sequence-parallel",
    )


def _data_parallel(settings: Settings, num_gpus: int) -> Iterator[Rule]:
    gathers = settings.on("overlap_param_gather")
    sharded = settings.on("use_distributed_optimizer") or settings.on("use_megatron_fsdp")
    yield (
        gathers and not sharded,
        "parameters are gathered by the distributed optimizer",
        "--overlap-param-gather",
        "--use-distributed-optimizer",
    )
    yield (
        gathers and not settings.on("overlap_grad_reduce"),
        "gathers overlap only where reductions do",
        "--overlap-param-gather",
        "--overlap-grad-reduce",
    )
    offload = settings.on("optimizer_cpu_offload")
    yield (
        offload and not settings.on("use_precision_aware_optimizer"),
        "an optimizer in host memory is the precision-aware one",
        "--optimizer-cpu-offload",
        "--use-precision-aware-optimizer",
    )
    replica = settings.integer("tensor_model_parallel_size") * settings.integer("pipeline_model_parallel_size")
    instances, replicas = settings.integer("num_distributed_optimizer_instances"), num_gpus // replica
    yield (
        replicas % instances != 0,
        "instances of the optimizer divide dp x cp",
        f"{instances} instances, dp x cp = {replicas}",
        "--num-distributed-optimizer-instances 1",
    )
    if settings.on("use_torch_fsdp2"):
        fsdp, pp = "--use-torch-fsdp2", settings.integer("pipeline_model_parallel_size")
        yield pp > 1, "PyTorch's FSDP has no pipeline", f"{fsdp}, pp {pp}", "--pipeline-model-parallel-size 1"
        ep = settings.integer("expert_model_parallel_size")
        yield ep > 1, "PyTorch's FSDP has no expert parallelism", f"{fsdp}, ep {ep}", "--expert-model-parallel-size 1"
        both = settings.on("use_distributed_optimizer")
        yield both, "PyTorch's FSDP excludes the distributed optimizer", fsdp, "drop --use-distributed-optimizer"
        tied = not settings.on("untie_embeddings_and_output_weights")
        yield tied, "PyTorch's FSDP needs a head of its own", fsdp, "--untie-embeddings-and-output-weights"


def _attention(settings: Settings) -> Iterator[Rule]:
    latent = settings.on("multi_latent_attention")
    yield (
        latent and settings.on("group_query_attention"),
        "latent attention has no query groups",
        "--multi-latent-attention --group-query-attention",
        "drop --group-query-attention",
    )
    positions = settings.text("position_embedding_type")
    rope = positions in ("rope", "none") or settings.on("use_rotary_position_embeddings")
    depth = settings.integer("mtp_num_layers")
    yield (
        depth > 0 and not rope,
        "multi-token prediction needs rotary positions",
        positions,
        "--position-embedding-type rope",
    )
    sizes = settings.values["hierarchical_context_parallel_sizes"]
    product = 1
    for size in sizes if isinstance(sizes, tuple) else ():
        product *= int(size)
    cp = settings.integer("context_parallel_size")
    yield (
        isinstance(sizes, tuple) and product != cp,
        "hierarchical sizes multiply to cp",
        f"{sizes}, cp {cp}",
        f"--context-parallel-size {product}",
    )
    method = settings.words("cp_comm_type")
    yield (
        "a2a+p2p" in method and not sizes,
        "a2a+p2p needs its sizes",
        "--cp-comm-type a2a+p2p",
        "--hierarchical-context-parallel-sizes",
    )


def _recompute(settings: Settings) -> Iterator[Rule]:
    kind, method = granularity(settings), settings.text("recompute_method")
    layers = settings.integer("recompute_num_layers", 0)
    full, selective = kind == "full", kind == "selective"
    yield (
        full and not method,
        "full recomputation needs a method",
        "--recompute-granularity full",
        "--recompute-method uniform",
    )
    yield (
        full and not layers,
        "full recomputation needs a number of layers",
        "--recompute-granularity full",
        "--recompute-num-layers 1",
    )
    yield (
        selective and bool(method),
        "selective recomputation has no method",
        f"--recompute-method {method}",
        "drop --recompute-method",
    )
    yield (
        selective and layers > 0,
        "selective recomputation has no number of layers",
        f"--recompute-num-layers {layers}",
        "drop --recompute-num-layers",
    )
    yield from _split_inputs(settings, kind)
    if selective:
        yield from _recomputed_modules(settings)


def _split_inputs(settings: Settings, kind: str) -> Iterator[Rule]:
    distributes = settings.on("distribute_saved_activations")
    tp = settings.integer("tensor_model_parallel_size")
    yield (
        distributes and (tp == 1 or kind != "full"),
        "kept inputs are split over tp under full recomputation",
        f"tp {tp}, {kind or 'no recomputation'}",
        "drop --distribute-saved-activations",
    )
    yield (
        distributes and settings.on("sequence_parallel") and tp > 1,
        "sequence parallelism splits kept inputs already",
        "--distribute-saved-activations",
        "drop --distribute-saved-activations",
    )


def _recomputed_modules(settings: Settings) -> Iterator[Rule]:
    chosen = modules(settings)
    wrong = sorted(chosen - RECOMPUTE_MODULES)
    yield bool(wrong), "modules that can be recomputed", " ".join(wrong), " ".join(sorted(RECOMPUTE_MODULES))
    yield (
        "moe_act" in chosen and not settings.on("moe_grouped_gemm"),
        "moe_act needs grouped products",
        "--recompute-modules moe_act",
        "--moe-grouped-gemm",
    )
    latent = settings.on("multi_latent_attention")
    yield (
        "mla_up_proj" in chosen and not latent,
        "mla_up_proj needs latent attention",
        "--recompute-modules mla_up_proj",
        "drop mla_up_proj",
    )
    overlap = settings.on("moe_shared_expert_overlap")
    yield (
        "shared_experts" in chosen and overlap,
        "shared experts are recomputed or overlapped",
        "shared_experts",
        "drop --moe-shared-expert-overlap",
    )
    delayed = settings.has("fp8_format") and settings.text("fp8_recipe") == "delayed"
    yield (
        delayed and bool(chosen & {"moe_act", "layernorm"}),
        "delayed scaling excludes moe_act and layernorm",
        " ".join(sorted(chosen)),
        "--fp8-recipe blockwise",
    )


def _dispatch(settings: Settings) -> Iterator[Rule]:
    kind = settings.text("moe_token_dispatcher_type")
    deepep = settings.on("moe_enable_deepep")
    yield (
        deepep and kind != "flex",
        "DeepEP is a backend of flex",
        f"--moe-enable-deepep, {kind}",
        "--moe-token-dispatcher-type flex",
    )
    shared = settings.on("moe_shared_expert_overlap")
    yield (
        shared and kind not in ("alltoall", "flex"),
        "shared experts overlap with alltoall or flex",
        kind,
        "--moe-token-dispatcher-type alltoall",
    )
    pads = settings.on("moe_pad_expert_input_to_capacity")
    yield (
        pads and not settings.has("moe_expert_capacity_factor"),
        "padding needs a capacity",
        "--moe-pad-expert-input-to-capacity",
        "--moe-expert-capacity-factor 1.0",
    )
    backend = settings.text("moe_flex_dispatcher_backend")
    yield (
        pads and kind == "flex" and backend == "deepep",
        "DeepEP does not pad",
        "--moe-pad-expert-input-to-capacity",
        "--moe-token-dispatcher-type alltoall",
    )
    balancing = settings.words("moe_router_load_balancing_type")
    dropped = settings.has("moe_expert_capacity_factor") and "sinkhorn" in balancing
    yield (
        dropped,
        "a capacity excludes sinkhorn",
        "--moe-router-load-balancing-type sinkhorn",
        "--moe-router-load-balancing-type aux_loss",
    )
    ranks = settings.integer("tensor_model_parallel_size") * settings.integer("expert_model_parallel_size")
    yield (
        kind == "flex" and ranks == 1,
        "flex dispatch needs tp x ep > 1",
        "tp 1, ep 1",
        "--moe-token-dispatcher-type alltoall",
    )


def _expert_overlap(settings: Settings) -> Iterator[Rule]:
    flag = "--overlap-moe-expert-parallel-comm"
    if not settings.on("overlap_moe_expert_parallel_comm"):
        delays = settings.on("delay_wgrad_compute")
        yield delays, "wgrad is delayed beside the dispatch only", "--delay-wgrad-compute", flag
        return
    ep, pp = settings.integer("expert_model_parallel_size"), settings.integer("pipeline_model_parallel_size")
    yield ep == 1 or not num_experts(settings), "overlap of the dispatch needs ep", f"{flag}, ep {ep}", f"drop {flag}"
    kind = settings.text("moe_token_dispatcher_type")
    yield (
        kind not in ("alltoall", "flex"),
        "the dispatch overlaps with alltoall or flex",
        kind,
        "--moe-token-dispatcher-type alltoall",
    )
    yield (
        pp > 1 and virtual_stages(settings) == 1,
        "with a pipeline, overlap of the dispatch needs virtual stages",
        f"pp {pp}",
        "--num-virtual-stages-per-pipeline-rank 2",
    )
    again = granularity(settings) == "full" or (granularity(settings) == "selective" and "moe" in modules(settings))
    yield again, "overlap of the dispatch excludes recomputation of the experts", flag, "drop the recomputation of moe"
    shared = settings.on("moe_shared_expert_overlap")
    yield shared, "overlap of the dispatch excludes that of shared experts", flag, "drop --moe-shared-expert-overlap"
    depth = settings.integer("mtp_num_layers")
    yield depth > 1, "overlap of the dispatch allows one prediction module", f"{depth} modules", "--mtp-num-layers 1"
