"""Which parameters a layer has, and how a strategy cuts them."""

from __future__ import annotations

from meshwright.costmodel.model import AttentionSpec, DenseFfnSpec, LayerSpec, MoeFfnSpec
from meshwright.executor.layer.parameters import Block, Cut, ParameterSpec, Slices


def layer_parameters(layer: LayerSpec, hidden: int) -> tuple[ParameterSpec, ...]:
    """All parameters of a layer."""
    ffn = layer.ffn
    block = _dense("", ffn, hidden) if isinstance(ffn, DenseFfnSpec) else _experts(ffn, hidden)
    return (*_layer_norms(layer, hidden), *_attention(layer.attention, hidden), *block)


def _layer_norms(layer: LayerSpec, hidden: int) -> list[ParameterSpec]:
    names = ["norm1", "norm2"]
    if layer.num_norms > 2:
        names += ["post_norm.attn_out", "post_norm.ffn_out"]
    return [spec for name in names for spec in _norm(name, hidden, bias=layer.norm_bias)]


def _norm(name: str, width: int, *, bias: bool = False) -> list[ParameterSpec]:
    weight = ParameterSpec(name=name, shape=(width,), fill=1.0)
    return [weight, ParameterSpec(name=f"{name}.bias", shape=(width,), fill=0.0)] if bias else [weight]


def _columns(name: str, cut: Cut, width_in: int, blocks: tuple[Block, ...], *, bias: bool) -> list[ParameterSpec]:
    """A matrix whose outputs are cut, with its bias."""
    width = sum(block.count * block.size for block in blocks)
    specs = [ParameterSpec(name=name, shape=(width, width_in), cut=cut, blocks=blocks)]
    if bias:
        specs.append(ParameterSpec(name=f"{name}.bias", shape=(width,), cut=cut, blocks=blocks, fill=0.0))
    return specs


def _rows(name: str, cut: Cut, block: Block, width_out: int, *, bias: bool) -> list[ParameterSpec]:
    """A matrix whose inputs are cut; its bias is not."""
    shape = (width_out, block.count * block.size)
    specs = [ParameterSpec(name=name, shape=shape, cut=cut, dim=1, blocks=(block,))]
    return [*specs, ParameterSpec(name=f"{name}.bias", shape=(width_out,), fill=0.0)] if bias else specs


def _attention(spec: AttentionSpec, hidden: int) -> list[ParameterSpec]:
    heads = Block(count=spec.num_heads, size=spec.value_head_dim)
    output = _rows("attn_projection", Cut.TENSOR, heads, hidden, bias=spec.output_bias)
    return [*(_latents(spec, hidden) if spec.is_mla else _projections(spec, hidden)), *output]


def _projections(spec: AttentionSpec, hidden: int) -> list[ParameterSpec]:
    blocks = (
        Block(count=spec.num_heads, size=spec.head_dim),
        Block(count=spec.num_kv_heads, size=spec.head_dim),
        Block(count=spec.num_kv_heads, size=spec.value_head_dim),
    )
    specs = _columns("qkv", Cut.TENSOR, hidden, blocks, bias=spec.qkv_bias)
    if spec.qk_norm and spec.qk_norm_weights:
        specs += [*_norm("q_norm", spec.head_dim), *_norm("k_norm", spec.head_dim)]
    return specs


def _latents(spec: AttentionSpec, hidden: int) -> list[ParameterSpec]:
    heads = Block(count=spec.num_heads, size=spec.head_dim)
    rank, query_rank = spec.kv_lora_rank, spec.query_lora_rank
    if query_rank:
        query = [
            *_whole("q_down", hidden, query_rank, bias=spec.qkv_bias),
            *_norm("norm_q_latent", query_rank),
            *_columns("q_up", Cut.TENSOR, query_rank, (heads,), bias=False),
        ]
    else:
        query = _columns("q_up", Cut.TENSOR, hidden, (heads,), bias=False)
    up = Block(count=spec.num_heads, size=spec.nope_head_dim + spec.value_head_dim)
    return [
        *query,
        *_whole("kv_down", hidden, rank + spec.rope_head_dim, bias=spec.qkv_bias),
        *_norm("norm_kv_latent", rank),
        *_columns("kv_up", Cut.TENSOR, rank, (up,), bias=False),
    ]


def _whole(name: str, width_in: int, width_out: int, *, bias: bool = False) -> list[ParameterSpec]:
    specs = [ParameterSpec(name=name, shape=(width_out, width_in))]
    return [*specs, ParameterSpec(name=f"{name}.bias", shape=(width_out,), fill=0.0)] if bias else specs


def _dense(prefix: str, ffn: DenseFfnSpec, hidden: int) -> list[ParameterSpec]:
    block = Block(count=ffn.intermediate)
    columns = (block, block) if ffn.gated else (block,)
    return [
        *_columns(f"{prefix}fc1", Cut.FFN, hidden, columns, bias=ffn.bias),
        *_rows(f"{prefix}fc2", Cut.FFN, block, hidden, bias=ffn.bias),
    ]


def _experts(moe: MoeFfnSpec, hidden: int) -> list[ParameterSpec]:
    columns = moe.intermediate * (2 if moe.gated else 1)
    specs = _whole("router", hidden, moe.num_experts, bias=moe.router_bias)
    if moe.score_correction_bias:
        specs.append(ParameterSpec(name="router.correction", shape=(moe.num_experts,), fill=0.0))
    width = Block(count=moe.intermediate)
    inner = (width, width) if moe.gated else (width,)
    specs += [
        _expert("experts_fc1", (moe.num_experts, columns, hidden), Slices(dim=1, blocks=inner)),
        _expert("experts_fc2", (moe.num_experts, hidden, moe.intermediate), Slices(dim=2, blocks=(width,))),
    ]
    if moe.bias:
        specs += [
            _expert("experts_fc1.bias", (moe.num_experts, columns), Slices(dim=1, blocks=inner)),
            _expert("experts_fc2.bias", (moe.num_experts, hidden)),
        ]
    if moe.shared_intermediate:
        shared = DenseFfnSpec(intermediate=moe.shared_intermediate, gated=moe.gated, bias=moe.bias)
        specs += _dense("shared_", shared, hidden)
    if moe.shared_gate:
        specs += _whole("shared_gate", hidden, 1)
    return specs


def _expert(name: str, shape: tuple[int, ...], slices: Slices | None = None) -> ParameterSpec:
    return ParameterSpec(name=name, shape=shape, cut=Cut.EXPERT, blocks=(Block(count=shape[0]),), slices=slices)
