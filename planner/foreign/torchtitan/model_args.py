"""The torchtitan model that a description is: a flavor it has, or the arguments of one to register."""

from __future__ import annotations

import json
from collections.abc import Iterator

from meshwright.costmodel.model import DenseFfnSpec, LayerSpec, ModelSpec, MoeFfnSpec
from meshwright.costmodel.presets import load_model, preset_names
from meshwright.costmodel.value import Value
from meshwright.planner.foreign.torchtitan.flavors import flavor_model, flavor_table

REGISTRIES = {
    "llama3": ("torchtitan.models.llama3", "TransformerModelArgs", "llama3_args"),
    "qwen3": ("torchtitan.models.qwen3", "Qwen3ModelArgs", "qwen3_args"),
    "deepseek_v3": ("torchtitan.models.deepseek_v3", "DeepSeekV3ModelArgs", "deepseekv3_args"),
}
"""Module, class of the arguments, and dictionary of the flavors."""


class FlavorName(Value, frozen=True, kw_only=True):
    """A model and flavor of torchtitan. `own`: the flavor is not torchtitan's, it has to be registered."""

    name: str
    flavor: str
    own: bool


def find_flavor(model: ModelSpec) -> FlavorName | None:
    """The flavor with these layers; else a family that has room for them; None where there is none."""
    for name, flavors in flavor_table().flavors.items():
        for flavor in flavors:
            if _same(flavor_model("", name, flavor), model):
                return FlavorName(name=name, flavor=flavor, own=False)
    family = family_of(model)
    return FlavorName(name=family, flavor=_own_name(model), own=True) if family else None


def runs_pipeline(model: ModelSpec) -> bool:
    """Whether torchtitan can cut the model into stages."""
    flavor = find_flavor(model)
    return flavor is not None and flavor.name not in flavor_table().without_pipeline


def _own_name(model: ModelSpec) -> str:
    """The model's name; marked where it is that of a preset with other layers, as which it would be read."""
    taken = model.name in preset_names() and not _same(load_model(model.name), model)
    return f"{model.name}-changed" if taken else model.name


def _same(one: ModelSpec, other: ModelSpec) -> bool:
    fields = ("hidden", "vocab", "layers", "tied_embeddings", "head_bias", "learned_positions")
    return all(getattr(one, field) == getattr(other, field) for field in fields)


def family_of(model: ModelSpec) -> str:
    """The family whose arguments can describe the model, or nothing."""
    if not all(_is_plain(layer) for layer in model.layers) or model.head_bias or model.learned_positions:
        return ""
    first = model.layers[0].attention
    if any(layer.attention != first for layer in model.layers):
        return ""
    if first.is_mla:
        return "deepseek_v3" if _leads_with_dense(model) and not model.tied_embeddings else ""
    if len(set(model.layers)) > 1 or first.value_head_dim != first.head_dim:
        return ""
    ffn = model.layers[0].ffn
    if isinstance(ffn, MoeFfnSpec):
        return "" if ffn.shared_intermediate else "qwen3"
    whole = first.num_heads * first.head_dim == model.hidden
    return "llama3" if whole and not first.qk_norm and not model.tied_embeddings else "qwen3"


def _is_plain(layer: LayerSpec) -> bool:
    """Causal attention over all tokens, gated FFN, RMS norms, no biases."""
    attention, ffn = layer.attention, layer.ffn
    special = attention.window or attention.chunk or attention.shares_key_value or attention.sinks
    biases = attention.qkv_bias or attention.output_bias or ffn.bias or layer.norm_bias
    gate = isinstance(ffn, MoeFfnSpec) and (ffn.shared_gate or ffn.router_bias)
    norms = attention.qk_norm and not attention.qk_norm_weights
    return not (special or biases or gate or norms) and ffn.gated and layer.num_norms == 2  # pre-norm


def _leads_with_dense(model: ModelSpec) -> bool:
    """Dense layers of one width first, then experts of one kind, with shared ones of a whole number."""
    kinds = [layer.is_moe for layer in model.layers]
    ffns = {layer.ffn for layer in model.layers}
    shared = [ffn.shared_intermediate % ffn.intermediate == 0 for ffn in ffns if isinstance(ffn, MoeFfnSpec)]
    return kinds == sorted(kinds) and kinds[-1] and len(ffns) <= 2 and all(shared)  # one dense, one with experts


def registration(model: ModelSpec, flavor: FlavorName) -> tuple[str, ...]:
    """Lines of Python that register the model as a flavor; what a plan does not hold comes from the environment."""
    module, arguments, registry = REGISTRIES[flavor.name]
    lines = ["import os", f"from {module} import {arguments}, {registry}"]
    if model.is_moe:
        lines.append("from torchtitan.models.moe import MoEArgs")
    body = [f"    {name}={value}," for name, value in _arguments(model, flavor.name)]
    return (*lines, f"{registry}[{json.dumps(flavor.flavor)}] = {arguments}(", *body, ")")


def _arguments(model: ModelSpec, family: str) -> Iterator[tuple[str, str]]:
    attention = model.layers[0].attention
    yield "dim", str(model.hidden)
    yield "n_layers", str(model.num_layers)
    yield "n_heads", str(attention.num_heads)
    yield "vocab_size", str(model.vocab)
    yield "norm_eps", 'float(os.environ["NORM_EPSILON"])'
    yield "rope_theta", 'float(os.environ["ROPE_THETA"])'
    match family:
        case "llama3":
            yield from _llama(model)
        case "qwen3":
            yield from _qwen(model)
        case _:
            yield from _deepseek(model)


def _llama(model: ModelSpec) -> Iterator[tuple[str, str]]:
    """The FFN's width is 8/3 h times a factor, rounded up to a multiple: the width itself is that multiple."""
    width = model.layers[0].ffn.intermediate
    yield "n_kv_heads", str(model.layers[0].attention.num_kv_heads)
    yield "multiple_of", str(width)
    yield "ffn_dim_multiplier", f"{min(1.0, 0.99 * 3 * width / (8 * model.hidden)):.4f}"


def _qwen(model: ModelSpec) -> Iterator[tuple[str, str]]:
    attention, ffn = model.layers[0].attention, model.layers[0].ffn
    yield "n_kv_heads", str(attention.num_kv_heads)
    yield "head_dim", str(attention.head_dim)
    yield "hidden_dim", str(ffn.intermediate)
    yield "qk_norm", str(attention.qk_norm)
    yield "enable_weight_tying", str(model.tied_embeddings)
    if isinstance(ffn, MoeFfnSpec):
        yield "moe_enabled", "True"
        yield "moe_inter_dim", str(ffn.intermediate)
        yield "moe_args", _moe_args(ffn)


def _deepseek(model: ModelSpec) -> Iterator[tuple[str, str]]:
    attention = model.layers[0].attention
    dense = [layer.ffn for layer in model.layers if isinstance(layer.ffn, DenseFfnSpec)]
    experts = next(layer.ffn for layer in model.layers if isinstance(layer.ffn, MoeFfnSpec))
    yield "inter_dim", str(dense[0].intermediate if dense else experts.intermediate)
    yield "moe_inter_dim", str(experts.intermediate)
    yield "n_dense_layers", str(len(dense))
    yield "q_lora_rank", str(attention.query_lora_rank)
    yield "kv_lora_rank", str(attention.kv_lora_rank)
    yield "qk_nope_head_dim", str(attention.nope_head_dim)
    yield "qk_rope_head_dim", str(attention.rope_head_dim)
    yield "v_head_dim", str(attention.value_head_dim)
    yield "moe_args", _moe_args(experts)


def _moe_args(ffn: MoeFfnSpec) -> str:
    """Experts and routing; whether the weights of the chosen ones sum to 1 is not in a plan."""
    groups = ffn.num_expert_groups > 1
    fields = {
        "num_experts": ffn.num_experts,
        "num_shared_experts": ffn.shared_intermediate // ffn.intermediate,
        "top_k": ffn.top_k,
        "score_func": f'"{ffn.score}"',
        "route_norm": 'os.environ["NORM_TOPK_PROB"] == "true"',
        "score_before_experts": False,
        "num_expert_groups": ffn.num_expert_groups if groups else None,
        "num_limited_groups": ffn.groups_per_token if groups else None,
        "load_balance_coeff": "1e-3" if ffn.score_correction_bias else None,
    }
    return f"MoEArgs({', '.join(f'{name}={value}' for name, value in fields.items())})"
