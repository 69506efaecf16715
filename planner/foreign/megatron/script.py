"""Megatron-LM's settings as a launch script for bash."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.planner.foreign.settings import GivenOption, Settings
from meshwright.planner.foreign.stated import given_options

PARALLEL = frozenset(
    (
        "tensor_model_parallel_size",
        "pipeline_model_parallel_size",
        "context_parallel_size",
        "expert_model_parallel_size",
        "expert_tensor_parallel_size",
        "sequence_parallel",
        "cp_comm_type",
        "hierarchical_context_parallel_sizes",
        "use_tp_pp_dp_mapping",
        "num_virtual_stages_per_pipeline_rank",
        "decoder_first_pipeline_num_layers",
        "decoder_last_pipeline_num_layers",
        "account_for_embedding_in_pipeline_split",
        "account_for_loss_in_pipeline_split",
        "pipeline_model_parallel_layout",
    )
)
BATCH = frozenset(("seq_length", "micro_batch_size", "global_batch_size"))
RUNTIME = frozenset(
    (
        "bf16",
        "fp8_format",
        "fp8_recipe",
        "fp8_param_gather",
        "grad_reduce_in_bf16",
        "use_distributed_optimizer",
        "overlap_grad_reduce",
        "overlap_param_gather",
        "num_distributed_optimizer_instances",
        "tp_comm_overlap",
        "overlap_moe_expert_parallel_comm",
        "use_megatron_fsdp",
        "data_parallel_sharding_strategy",
        "optimizer_cpu_offload",
        "use_precision_aware_optimizer",
        "gradient_accumulation_fusion",
        "attention_backend",
        "cuda_graph_impl",
        "cross_entropy_loss_fusion",
        "overlap_p2p_comm",
    )
)
PREFIXES = (("moe_", "EXPERT_ARGS"), ("num_experts", "EXPERT_ARGS"), ("recompute_", "RECOMPUTE_ARGS"))
GROUPS = ("MODEL_ARGS", "EXPERT_ARGS", "PARALLEL_ARGS", "BATCH_ARGS", "RECOMPUTE_ARGS", "RUNTIME_ARGS")
REQUIRED = (
    ("MEGATRON_PATH", "folder of a Megatron-LM checkout"),
    ("DATA_PATH", "prefix of the indexed dataset"),
    ("TOKENIZER_MODEL", "tokenizer: folder or Hugging Face name"),
    ("CHECKPOINT_PATH", "folder for checkpoints"),
    ("TRAIN_ITERS", "number of steps"),
    ("LR", "peak learning rate"),
    ("NORM_EPSILON", "rms_norm_eps of the model"),
)
ROTARY = ("ROTARY_BASE", "rope_theta of the model")
BALANCING = ("MOE_AUX_LOSS_COEFF", "router_aux_loss_coef of the model")


def script_text(settings: Settings, configuration: TrainingConfiguration, comments: tuple[str, ...]) -> str:
    """The script: comments, variables that the user sets, arguments by group, and the launch."""
    lines = ["#!/usr/bin/env bash", *(f"# {line}".rstrip() for line in comments), "set -euo pipefail", ""]
    lines += [
        "# A plan does not hold these: set them in the environment. Arguments of this script come last: for what else",
        "# the model needs (rotary scaling, initialization) and the run wants (logging, learning rate).",
    ]
    lines += [f': "${{{name}:?{meaning}}}"' for name, meaning in required_variables(settings)]
    lines += ["", *_launcher_lines(settings, configuration), ""]
    groups = dict(_groups(settings))
    for name, options in groups.items():
        lines += [f"{name}=(", *(f"    {_written(option)}" for option in options), ")"]
    lines += ["OTHER_ARGS=(", *(f"    {text}" for text in _other_arguments(settings)), ")", ""]
    arrays = " ".join(f'"${{{name}[@]}}"' for name in (*groups, "OTHER_ARGS"))
    lines += [f'torchrun "${{LAUNCH_ARGS[@]}}" "$MEGATRON_PATH/pretrain_gpt.py" {arrays} "$@"']
    return "\n".join(lines) + "\n"


def required_variables(settings: Settings) -> Iterator[tuple[str, str]]:
    """Variables without which the script stops, each with its meaning."""
    yield from REQUIRED
    if settings.text("position_embedding_type") == "rope":
        yield ROTARY
    if settings.has("num_experts"):
        yield BALANCING


def _launcher_lines(settings: Settings, configuration: TrainingConfiguration) -> list[str]:
    cluster = configuration.cluster
    per_node = min(cluster.gpus_per_node, cluster.num_gpus)
    launch = (
        f"--nnodes {-(-cluster.num_gpus // per_node)}",
        f"--nproc-per-node {per_node}",
        '--node-rank "${NODE_RANK:-0}"',
        '--master-addr "${MASTER_ADDR:-localhost}"',
        '--master-port "${MASTER_PORT:-29500}"',
    )
    return [*_connections(settings), "LAUNCH_ARGS=(", *(f"    {text}" for text in launch), ")"]


def _connections(settings: Settings) -> list[str]:
    """Order of communication kernels before products: needed by tp and cp, forbidden by FSDP and the overlap of ep."""
    if settings.on("use_megatron_fsdp") or settings.on("overlap_moe_expert_parallel_comm"):
        return ["export CUDA_DEVICE_MAX_CONNECTIONS=32"]
    return ["export CUDA_DEVICE_MAX_CONNECTIONS=1"]


def _groups(settings: Settings) -> Iterator[tuple[str, list[GivenOption]]]:
    members: dict[str, list[GivenOption]] = {name: [] for name in GROUPS}
    for setting, option in given_options(settings):
        members[_group(setting)].append(option)
    yield from ((name, options) for name, options in members.items() if options)


def _group(setting: str) -> str:
    for members, name in ((PARALLEL, "PARALLEL_ARGS"), (BATCH, "BATCH_ARGS"), (RUNTIME, "RUNTIME_ARGS")):
        if setting in members:
            return name
    return next((name for prefix, name in PREFIXES if setting.startswith(prefix)), "MODEL_ARGS")


def _written(option: GivenOption) -> str:
    return " ".join((option.name, *map(shlex.quote, option.values)))


def _other_arguments(settings: Settings) -> Iterable[str]:
    """What a run needs and a plan does not decide."""
    yield '--data-path "$DATA_PATH"'
    yield '--tokenizer-type HuggingFaceTokenizer --tokenizer-model "$TOKENIZER_MODEL"'
    yield '--save "$CHECKPOINT_PATH" --load "$CHECKPOINT_PATH" --save-interval "${SAVE_INTERVAL:-1000}"'
    if settings.on("use_megatron_fsdp"):
        yield "--ckpt-format fsdp_dtensor"
    yield '--train-iters "$TRAIN_ITERS" --eval-iters "${EVAL_ITERS:-0}" --log-interval "${LOG_INTERVAL:-10}"'
    yield '--lr "$LR" --min-lr "${MIN_LR:-0}" --lr-decay-style cosine --lr-warmup-iters "${LR_WARMUP_ITERS:-0}"'
    yield "--optimizer adam --adam-beta1 0.9 --adam-beta2 0.95 --weight-decay 0.1 --clip-grad 1.0"
    yield '--norm-epsilon "$NORM_EPSILON"'
    if settings.text("position_embedding_type") == "rope":
        yield '--rotary-base "$ROTARY_BASE"'
    if settings.has("num_experts"):
        yield '--moe-router-load-balancing-type aux_loss --moe-aux-loss-coeff "$MOE_AUX_LOSS_COEFF"'
