"""The parameters of a whole model: names and shapes, nothing cut."""

from __future__ import annotations

from collections.abc import Iterator

from meshwright.costmodel.model import ModelSpec
from meshwright.executor.layer.parameter_list import layer_parameters

Shape = tuple[int, ...]


def model_shapes(model: ModelSpec) -> dict[str, Shape]:
    """Shapes by name, in the order of the model. A tied head is the embedding and not listed."""
    return dict(_shapes(model))


def _shapes(model: ModelSpec) -> Iterator[tuple[str, Shape]]:
    yield "embedding", (model.vocab, model.hidden)
    if model.learned_positions:
        yield "positions", (model.learned_positions, model.hidden)
    for index in range(model.num_layers):
        yield from _layer(model, index, f"layers.{index}.")
    yield from _norm(model, "final_norm")
    if not model.tied_embeddings:
        yield "head", (model.vocab, model.hidden)
    if model.head_bias:
        yield "head.bias", (model.vocab,)
    for depth in range(1, model.mtp_depth + 1):
        yield from _prediction_module(model, f"mtp{depth}.")


def _prediction_module(model: ModelSpec, prefix: str) -> Iterator[tuple[str, Shape]]:
    yield from _norm(model, f"{prefix}norm_embedding")
    yield from _norm(model, f"{prefix}norm_hidden")
    yield f"{prefix}projection", (model.hidden, 2 * model.hidden)
    yield from _layer(model, -1, prefix)
    yield from _norm(model, f"{prefix}final_norm")


def _layer(model: ModelSpec, index: int, prefix: str) -> Iterator[tuple[str, Shape]]:
    for spec in layer_parameters(model.layers[index], model.hidden):
        yield f"{prefix}{spec.name}", spec.shape


def _norm(model: ModelSpec, name: str) -> Iterator[tuple[str, Shape]]:
    yield name, (model.hidden,)
    if model.layers[-1].norm_bias:
        yield f"{name}.bias", (model.hidden,)
