"""Which tensors of a Hugging Face checkpoint make which of ours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate

from meshwright.costmodel.errors import ModelError
from meshwright.costmodel.model import AttentionSpec, DenseFfnSpec, LayerSpec, ModelSpec, MoeFfnSpec
from meshwright.executor.weights.families import Family
from meshwright.executor.weights.model_parameters import model_shapes
from meshwright.executor.weights.region import Interleaved, Region

Entry = tuple[str, tuple[Region, ...]]
Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class WeightMapping:
    """Regions by our names. `copies`: tensors of a file that repeat one of ours, by the file's names."""

    regions: dict[str, tuple[Region, ...]]
    shapes: dict[str, Shape]
    copies: dict[str, str] = field(default_factory=dict)

    @property
    def sources(self) -> dict[str, Shape]:
        """The shapes of all tensors of a file that are not copies, by the file's names."""
        return {region.source: region.shape for regions in self.regions.values() for region in regions}


def weight_mapping(model: ModelSpec, family: Family, *, interleaved: bool = True) -> WeightMapping:
    """The mapping of a model in a family's names; `interleaved`: MLA's rotary rows lie in pairs in the file.

    Raises `ModelError` for a parameter that the family has no name for.
    """
    regions = dict(_Names(model, family, interleaved).entries())
    shapes = model_shapes(model)
    for name in sorted(shapes.keys() ^ regions.keys()):
        raise ModelError(model.name, name, f"{family.model_type} checkpoints have no such parameter")
    return WeightMapping(regions=regions, shapes=shapes, copies=_copies(model))


def _copies(model: ModelSpec) -> dict[str, str]:
    """A tied head, and what prediction modules share with the main model."""
    head = "embedding" if model.tied_embeddings else "head"
    copies = {"lm_head.weight": head} if model.tied_embeddings else {}
    for index in range(model.num_layers, model.num_layers + model.mtp_depth):
        copies[f"model.layers.{index}.embed_tokens.weight"] = "embedding"
        copies[f"model.layers.{index}.shared_head.head.weight"] = head
    return copies


class _Names:
    """Walks a model and gives every parameter its regions."""

    def __init__(self, model: ModelSpec, family: Family, interleaved: bool) -> None:
        self._model = model
        self._family = family
        self._interleaved = interleaved

    def entries(self) -> Iterator[Entry]:
        model = self._model
        vocabulary, hidden = (model.vocab, model.hidden), (model.hidden,)
        yield _whole("embedding", "model.embed_tokens.weight", vocabulary)
        for index in range(model.num_layers):
            yield from self._layer(model.layers[index], f"layers.{index}.", f"model.layers.{index}.")
        yield _whole("final_norm", "model.norm.weight", hidden)
        if not model.tied_embeddings:
            yield _whole("head", "lm_head.weight", vocabulary)
        for depth in range(1, model.mtp_depth + 1):
            yield from self._prediction_module(f"mtp{depth}.", f"model.layers.{model.num_layers + depth - 1}.")

    def _prediction_module(self, own: str, file: str) -> Iterator[Entry]:
        hidden = self._model.hidden
        yield _whole(f"{own}norm_embedding", f"{file}enorm.weight", (hidden,))
        yield _whole(f"{own}norm_hidden", f"{file}hnorm.weight", (hidden,))
        yield _whole(f"{own}projection", f"{file}eh_proj.weight", (hidden, 2 * hidden))
        yield from self._layer(self._model.layers[-1], own, file)
        yield _whole(f"{own}final_norm", f"{file}shared_head.norm.weight", (hidden,))

    def _layer(self, layer: LayerSpec, own: str, file: str) -> Iterator[Entry]:
        hidden = self._model.hidden
        yield _whole(f"{own}norm1", f"{file}input_layernorm.weight", (hidden,))
        yield _whole(f"{own}norm2", f"{file}post_attention_layernorm.weight", (hidden,))
        attention = layer.attention
        attend = self._latent_attention if attention.is_mla else self._attention
        yield from attend(attention, own, f"{file}self_attn.")
        output = (hidden, attention.output_width)
        yield from _linear(f"{own}attn_projection", f"{file}self_attn.o_proj", output, bias=attention.output_bias)
        if isinstance(layer.ffn, DenseFfnSpec):
            yield from self._dense(layer.ffn, own, f"{file}mlp.")
        else:
            yield from self._experts(layer.ffn, own, f"{file}{self._family.experts.block}.")

    def _attention(self, spec: AttentionSpec, own: str, file: str) -> Iterator[Entry]:
        names = [f"{file}{part}_proj" for part in "qkv"]
        heights = [spec.query_width, spec.key_width, spec.value_width]
        yield from _joint(f"{own}qkv", names, heights, self._model.hidden, bias=spec.qkv_bias)
        if spec.qk_norm and spec.qk_norm_weights:
            for name in ("q_norm", "k_norm"):
                yield _whole(f"{own}{name}", f"{file}{name}.weight", (spec.head_dim,))

    def _latent_attention(self, spec: AttentionSpec, own: str, file: str) -> Iterator[Entry]:
        hidden, rank, query_rank = self._model.hidden, spec.kv_lora_rank, spec.query_lora_rank
        query = Interleaved(group=spec.head_dim, begin=spec.nope_head_dim, width=spec.rope_head_dim)
        key = Interleaved(group=rank + spec.rope_head_dim, begin=rank, width=spec.rope_head_dim)
        if query_rank:
            yield from _linear(f"{own}q_down", f"{file}q_a_proj", (query_rank, hidden), bias=spec.qkv_bias)
            yield _whole(f"{own}norm_q_latent", f"{file}q_a_layernorm.weight", (query_rank,))
        name = f"{file}q_b_proj" if query_rank else f"{file}q_proj"
        shape = (spec.query_width, query_rank or hidden)
        yield from _linear(f"{own}q_up", name, shape, order=self._order(query))
        shape = (rank + spec.rope_head_dim, hidden)
        name = f"{file}kv_a_proj_with_mqa"
        yield from _linear(f"{own}kv_down", name, shape, bias=spec.qkv_bias, order=self._order(key))
        yield _whole(f"{own}norm_kv_latent", f"{file}kv_a_layernorm.weight", (rank,))
        shape = (spec.num_heads * (spec.nope_head_dim + spec.value_head_dim), rank)
        yield from _linear(f"{own}kv_up", f"{file}kv_b_proj", shape)

    def _order(self, order: Interleaved) -> Interleaved | None:
        return order if self._interleaved else None

    def _dense(self, ffn: DenseFfnSpec, own: str, file: str) -> Iterator[Entry]:
        hidden, width = self._model.hidden, ffn.intermediate
        names = [f"{file}gate_proj", f"{file}up_proj"]
        yield from _joint(f"{own}fc1", names, [width, width], hidden, bias=ffn.bias)
        yield from _linear(f"{own}fc2", f"{file}down_proj", (hidden, width), bias=ffn.bias)

    def _experts(self, moe: MoeFfnSpec, own: str, file: str) -> Iterator[Entry]:
        hidden, width, names = self._model.hidden, moe.intermediate, self._family.experts
        yield _whole(f"{own}router", f"{file}gate.weight", (moe.num_experts, hidden))
        if moe.score_correction_bias:
            source = f"{file}gate.e_score_correction_bias"
            yield _whole(f"{own}router.correction", source, (moe.num_experts,))
        first, second = [], []
        for expert in range(moe.num_experts):
            matrix = f"{file}experts.{expert}."
            for place, name in enumerate((names.gate, names.up)):
                rows = slice(place * width, (place + 1) * width)
                first.append(Region(source=f"{matrix}{name}.weight", shape=(width, hidden), index=(expert, rows)))
            second.append(Region(source=f"{matrix}{names.down}.weight", shape=(hidden, width), index=(expert,)))
        yield f"{own}experts_fc1", tuple(first)
        yield f"{own}experts_fc2", tuple(second)
        if moe.shared_intermediate:
            shared = DenseFfnSpec(intermediate=moe.shared_intermediate)
            yield from self._dense(shared, f"{own}shared_", f"{file}shared_experts.")


def _whole(name: str, source: str, shape: Shape) -> Entry:
    return name, (Region(source=source, shape=shape),)


def _linear(
    name: str, source: str, shape: Shape, *, bias: bool = False, order: Interleaved | None = None
) -> Iterator[Entry]:
    """One matrix with its bias."""
    yield name, (Region(source=f"{source}.weight", shape=shape, order=order),)
    if bias:
        yield f"{name}.bias", (Region(source=f"{source}.bias", shape=shape[:1], order=order),)


def _joint(name: str, sources: list[str], heights: list[int], width: int, *, bias: bool) -> Iterator[Entry]:
    """Matrices that lie one below the other in ours, with their biases."""
    ends = list(accumulate(heights))
    rows = [slice(end - height, end) for end, height in zip(ends, heights, strict=True)]
    parts = list(zip(sources, heights, rows, strict=True))
    yield (
        name,
        tuple(Region(source=f"{part}.weight", shape=(height, width), index=(at,)) for part, height, at in parts),
    )
    if bias:
        biases = (Region(source=f"{part}.bias", shape=(height,), index=(at,)) for part, height, at in parts)
        yield f"{name}.bias", tuple(biases)
