"""The model that Megatron-LM's arguments describe."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from functools import cache
from typing import TypeAlias

import msgspec

from meshwright.costmodel.errors import InputError
from meshwright.costmodel.model import AttentionSpec, DenseFfnSpec, LayerSpec, ModelSpec, MoeFfnSpec, RouterScore
from meshwright.costmodel.presets import ALIASES, load_model, preset_names
from meshwright.planner.foreign.settings import Settings

Pattern: TypeAlias = "list[int] | int"
VOCABULARIES = {
    "GPT2BPETokenizer": 50257,
    "Llama2Tokenizer": 32000,
    "BertWordPieceLowerCase": 30522,
    "BertWordPieceCase": 28996,
}
"""Entries of the tokenizers that always have the same vocabulary."""

_OPERATORS: dict[type[ast.operator], Callable[[Pattern, Pattern], Pattern]] = {
    ast.Add: operator.add,
    ast.Mult: operator.mul,
}
_SCORES = {"softmax": RouterScore.SOFTMAX, "sigmoid": RouterScore.SIGMOID, "sqrtsoftplus": RouterScore.SIGMOID}


def model_of(settings: Settings) -> ModelSpec:
    """The model; an `InputError` where a size is missing or a pattern of layers cannot be read."""
    layers = tuple(
        LayerSpec(
            attention=_attention(settings, window=window),
            ffn=_experts(settings) if is_moe else _dense(settings),
            norm_bias=settings.text("normalization") == "LayerNorm",
        )
        for is_moe, window in zip(_moe_layers(settings), _windows(settings), strict=True)
    )
    rotary = settings.on("use_rotary_position_embeddings")
    learned = settings.text("position_embedding_type") == "learned_absolute" and not rotary
    model = ModelSpec(
        name="model",
        hidden=settings.integer("hidden_size"),
        vocab=padded_vocabulary(settings),
        layers=layers,
        tied_embeddings=not settings.on("untie_embeddings_and_output_weights"),
        learned_positions=settings.integer("max_position_embeddings") if learned else 0,
        mtp_depth=settings.integer("mtp_num_layers"),
        source=settings.where,
    )
    return named_like_preset(model)


def num_query_groups(settings: Settings) -> int:
    """Key-value heads."""
    heads = settings.integer("num_attention_heads")
    return settings.integer("num_query_groups") if settings.on("group_query_attention") else heads


def head_size(settings: Settings) -> int:
    """Elements of a head."""
    return settings.integer(
        "kv_channels", max(1, settings.integer("hidden_size") // settings.integer("num_attention_heads"))
    )


def ffn_size(settings: Settings) -> int:
    """Width of a dense FFN: 4 h, with a gate two thirds of that in multiples of 64."""
    hidden = settings.integer("hidden_size")
    gated = int(4 * hidden * 2 / 3) // 64 * 64
    return settings.integer("ffn_hidden_size", gated if settings.on("swiglu") else 4 * hidden)


def num_experts(settings: Settings) -> int:
    """Routed experts of a layer, 0 in a dense model."""
    return settings.integer("num_experts", 0)


def padded_vocabulary(settings: Settings) -> int:
    """Rows of the embedding: the tokenizer's, up to a multiple of what Megatron-LM pads to."""
    if settings.has("padded_vocab_size"):
        return settings.integer("padded_vocab_size")
    unit = settings.integer("make_vocab_size_divisible_by") * settings.integer("tensor_model_parallel_size")
    return -(-vocabulary(settings) // unit) * unit


def vocabulary(settings: Settings) -> int:
    """Entries of the tokenizer: as given, of a tokenizer with a fixed size, or of the preset that it belongs to."""
    if settings.has("vocab_size"):
        return settings.integer("vocab_size")
    kind = settings.text("tokenizer_type")
    if kind in VOCABULARIES:
        return VOCABULARIES[kind]
    preset = _tokenizer_preset(settings.text("tokenizer_model"))
    if preset:
        return load_model(preset).vocab
    if not kind and not settings.has("tokenizer_model"):
        return VOCABULARIES["GPT2BPETokenizer"]
    tokenizer = f"the tokenizer ({settings.text('tokenizer_model') or kind})"
    raise InputError(
        settings.where, "--vocab-size", f"{tokenizer} is not known here; give it, as in --add '--vocab-size N'"
    )


def _tokenizer_preset(tokenizer: str) -> str:
    """The preset of the model that a Hugging Face name stands for."""
    name = re.sub(r"^meta-llama-", "llama-", tokenizer.rstrip("/").rpartition("/")[2].lower())
    names = {preset: preset for preset in preset_names()} | dict(ALIASES)
    for plain in (name, re.sub(r"(-(base|instruct|it|chat|hf|v[\d.]+))+$", "", name)):
        if plain in names:
            return names[plain]
    return ""


def named_like_preset(model: ModelSpec) -> ModelSpec:
    """The model under the name of the preset that has the same layers, if there is one."""
    same = [preset for preset in _presets() if preset.hidden == model.hidden and preset.layers == model.layers]
    if same:
        nearest = min(same, key=lambda preset: (abs(preset.vocab - model.vocab), preset.name))
        return msgspec.structs.replace(model, name=nearest.name)
    experts = f", {model.layers[-1].ffn.num_experts} experts" if isinstance(model.layers[-1].ffn, MoeFfnSpec) else ""
    return msgspec.structs.replace(model, name=f"{model.num_layers} layers of {model.hidden}{experts}")


@cache
def _presets() -> tuple[ModelSpec, ...]:
    return tuple(map(load_model, preset_names()))


# The parts of a layer.


def _attention(settings: Settings, *, window: int) -> AttentionSpec:
    heads, bias = settings.integer("num_attention_heads"), settings.on("add_bias_linear")
    common = {
        "qk_norm": settings.on("qk_layernorm") or settings.on("qk_l2_norm"),
        "qk_norm_weights": settings.on("qk_layernorm"),
        "qkv_bias": bias or settings.on("add_qkv_bias"),
        "output_bias": bias,
        "sinks": settings.text("softmax_type") == "learnable",
    }
    if not settings.on("multi_latent_attention"):
        size = head_size(settings)
        return AttentionSpec(
            num_heads=heads,
            num_kv_heads=num_query_groups(settings),
            head_dim=size,
            value_head_dim=size,
            window=window,
            **(common | {"qk_norm_weights": common["qk_norm_weights"] or not common["qk_norm"]}),
        )
    rope = settings.integer("qk_pos_emb_head_dim")
    return AttentionSpec(
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=settings.integer("qk_head_dim") + rope,
        value_head_dim=settings.integer("v_head_dim"),
        window=window,
        query_lora_rank=settings.integer("q_lora_rank", 0),
        kv_lora_rank=settings.integer("kv_lora_rank"),
        rope_head_dim=rope,
        qkv_bias=False,
        output_bias=bias,
        sinks=common["sinks"],
    )


def _is_gated(settings: Settings) -> bool:
    return settings.on("swiglu") or settings.on("quick_geglu")


def _dense(settings: Settings) -> DenseFfnSpec:
    return DenseFfnSpec(intermediate=ffn_size(settings), gated=_is_gated(settings), bias=settings.on("add_bias_linear"))


def expert_size(settings: Settings) -> int:
    """Width of one routed expert."""
    return settings.integer("moe_ffn_hidden_size", ffn_size(settings))


def _experts(settings: Settings) -> MoeFfnSpec:
    return MoeFfnSpec(
        num_experts=num_experts(settings),
        top_k=settings.integer("moe_router_topk"),
        intermediate=expert_size(settings),
        gated=_is_gated(settings),
        bias=settings.on("add_bias_linear"),
        shared_intermediate=settings.integer("moe_shared_expert_intermediate_size", 0),
        shared_gate=settings.on("moe_shared_expert_gate"),
        score=_SCORES[settings.text("moe_router_score_function")],
        score_correction_bias=settings.on("moe_router_enable_expert_bias"),
        num_expert_groups=settings.integer("moe_router_num_groups", 1),
        groups_per_token=settings.integer("moe_router_group_topk", 1),
    )


# Which layer is what.


def _moe_layers(settings: Settings) -> list[bool]:
    """For each layer whether it has experts: one in every N, or a pattern of 1 and 0."""
    count = settings.integer("num_layers")
    if not num_experts(settings):
        return [False] * count
    pattern = read_pattern(settings, "moe_layer_freq")
    if isinstance(pattern, int):
        return [index % pattern == 0 for index in range(count)]
    return [bool(kind) for kind in _whole(settings, "moe_layer_freq", pattern)]


def _windows(settings: Settings) -> list[int]:
    """The sliding window of each layer, 0 for full attention: all, all but every N-th, or a pattern of 1 and 0."""
    count = settings.integer("num_layers")
    if not settings.has("window_size"):
        return [0] * count
    left = settings.text("window_size").strip("()").partition(",")[0].strip()
    if not left.lstrip("-").isdecimal():
        raise InputError(settings.where, "--window-size", f"{settings.text('window_size')!r} is no pair as in 128,0")
    window = max(0, int(left) + 1)
    if not settings.has("window_attn_skip_freq"):
        return [window] * count
    pattern = read_pattern(settings, "window_attn_skip_freq")
    if isinstance(pattern, int):
        return [window if (index + 1) % pattern else 0 for index in range(count)]
    return [window if kind else 0 for kind in _whole(settings, "window_attn_skip_freq", pattern)]


def _whole(settings: Settings, name: str, pattern: list[int]) -> list[int]:
    count = settings.integer("num_layers")
    if len(pattern) != count:
        problem = f"the pattern has {len(pattern)} layers, the model has {count}"
        raise InputError(settings.where, settings.written(name), problem)
    return pattern


def read_pattern(settings: Settings, name: str) -> Pattern:
    """A number, or a list written with + and *, as in [0]*3+[1]*58."""
    text = settings.text(name).strip("'\"")
    try:
        pattern = _evaluate(ast.parse(text, mode="eval").body)
    except (SyntaxError, TypeError, ValueError):
        pattern = 0
    if pattern == 0 or (isinstance(pattern, int) and pattern < 1):
        problem = f"{text!r} is neither a number nor a pattern as in [0]*3+[1]*58"
        raise InputError(settings.where, settings.written(name), problem)
    return pattern


def _evaluate(node: ast.expr) -> Pattern:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.List):
        return [item for element in node.elts for item in [_evaluate(element)] if isinstance(item, int)]
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_evaluate(node.left), _evaluate(node.right))
    raise ValueError
