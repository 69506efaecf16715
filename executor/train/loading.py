"""Weights of a Hugging Face folder as the initial weights of a rank: it reads what it holds, its own experts alone."""

from __future__ import annotations

from torch import Tensor

from meshwright.executor.layer.parameters import Cut
from meshwright.executor.model.build import RankModel
from meshwright.executor.state.flat import FlatParameters, OwnedParameter
from meshwright.executor.weights.import_weights import WeightSource


def load_weights(model: RankModel, source: WeightSource) -> None:
    """Fill masters and weights; one buffer's tensors are in host memory at a time. A collective.

    Raises `InputError`.
    """
    for flat in model.flats:
        _fill(flat, source)
    model.state.spread()
    for name, tensor in source.tensors(names=model.constants) if model.constants else ():
        model.constants[name].copy_(tensor)


def _fill(flat: FlatParameters, source: WeightSource) -> None:
    names: dict[range | None, list[str]] = {}
    for one in flat.owned:
        names.setdefault(_experts(one), []).append(one.name)
    found: dict[str, Tensor] = {}
    for experts, alike in names.items():
        found |= source.tensors(names=alike, dtype=flat.master.dtype, experts=experts)

    def draw(one: OwnedParameter, _like: Tensor) -> Tensor:
        tensor = found.pop(one.name)
        cut = one.spec.sliced if one.spec.cut is Cut.EXPERT else one.spec.part
        return cut(tensor, one.groups)

    flat.fill(draw)


def _experts(one: OwnedParameter) -> range | None:
    """The experts of a parameter that this rank holds; None for a parameter that has none."""
    if one.spec.cut is not Cut.EXPERT:
        return None
    ((first, count),) = one.spec.pieces(one.spec.ranks(one.groups))
    return range(first, first + count)
