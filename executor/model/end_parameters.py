"""Parameters of the model's two ends, and the names of all parameters."""

from __future__ import annotations

from meshwright.costmodel.model import ModelSpec
from meshwright.executor.layer.bindings.embedding import TABLE
from meshwright.executor.layer.parameters import Block, Cut, ParameterSpec

HEAD = "head"
FINAL_NORM = "final_norm"


def embedding_parameters(model: ModelSpec) -> tuple[ParameterSpec, ...]:
    """The table, its rows cut over tensor-parallel ranks."""
    return (_vocabulary(TABLE, model),)


def head_parameters(model: ModelSpec) -> tuple[ParameterSpec, ...]:
    """The final norm and the output matrix, its rows cut over tensor-parallel ranks."""
    norm = ParameterSpec(name=FINAL_NORM, shape=(model.hidden,), fill=1.0)
    specs = [norm, _vocabulary(HEAD, model)]
    if model.layers[-1].norm_bias:
        specs.append(ParameterSpec(name=f"{FINAL_NORM}.bias", shape=(model.hidden,), fill=0.0))
    if model.head_bias:
        block = Block(count=model.vocab, even=False)
        specs.append(
            ParameterSpec(name=f"{HEAD}.bias", shape=(model.vocab,), cut=Cut.TENSOR, blocks=(block,), fill=0.0)
        )
    return tuple(specs)


def _vocabulary(name: str, model: ModelSpec) -> ParameterSpec:
    return ParameterSpec(
        name=name, shape=(model.vocab, model.hidden), cut=Cut.TENSOR, blocks=(Block(count=model.vocab, even=False),)
    )


def layer_name(index: int, name: str) -> str:
    """The name of a layer's parameter in the model.

    >>> layer_name(3, "qkv.bias")
    'layers.3.qkv.bias'
    """
    return f"layers.{index}.{name}"


def end_name(name: str, model: ModelSpec) -> str:
    """The name of a parameter of an end: a tied head's matrix is the embedding."""
    return TABLE if name == HEAD and model.tied_embeddings else name
