"""The sizes that make the shape of a model, and the model that has other sizes: what follows from a change."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec

from meshwright.costmodel.errors import ModelError
from meshwright.costmodel.model import ModelSpec, MoeFfnSpec
from meshwright.costmodel.value import Value
from meshwright.planner.held.model import held_model, value_of


class Dimension(Value, frozen=True, kw_only=True):
    """One size. `field`: what `held_model` calls it, empty where it stands for no single field.

    `multiple`: what a solved size is a multiple of; 0 where no budget is solved for it. `largest`: where that ends.
    """

    words: str
    field: str = ""
    multiple: int = 0
    largest: int = 2**24


WIDTH_MULTIPLE: Final = 128
"""The width of a tile of a matrix product: a rest below it costs as much as a whole tile."""

EXPERTS_MULTIPLE: Final = 8
"""Experts that the GPUs of a node share evenly."""

DIMENSIONS: Final[Mapping[str, Dimension]] = MappingProxyType(
    {
        "layers": Dimension(words="layers", field="num_layers", multiple=1, largest=10_000),
        "hidden": Dimension(words="hidden size", field="hidden"),
        "heads": Dimension(words="query heads", field="num_heads"),
        "kv-heads": Dimension(words="key-value heads", field="num_kv_heads"),
        "head-size": Dimension(words="size of a head", field="head_dim"),
        "ffn-size": Dimension(
            words="width of the dense feed-forward block", field="dense_intermediate", multiple=WIDTH_MULTIPLE
        ),
        "experts": Dimension(words="experts", field="num_experts", multiple=EXPERTS_MULTIPLE),
        "top-k": Dimension(words="experts a token", field="top_k"),
        "expert-size": Dimension(words="width of an expert", field="expert_intermediate", multiple=WIDTH_MULTIPLE),
        "shared-experts": Dimension(words="shared experts"),
    }
)
"""What can be varied, by the name a user types."""


def sizes_of(model: ModelSpec) -> dict[str, int]:
    """The sizes that a model has; one in which its layers differ is left out.

    Shared experts count in widths of a routed expert, as configurations do.

    >>> from meshwright.costmodel.presets import load_model
    >>> sizes = sizes_of(load_model("internal-352b"))
    >>> sizes["experts"], sizes["top-k"], sizes["expert-size"], sizes["shared-experts"], "ffn-size" in sizes
    (32, 3, 14336, 1, False)
    """
    found = {name: _size(model, name) for name in DIMENSIONS}
    return {name: size for name, size in found.items() if isinstance(size, int)}


def _size(model: ModelSpec, name: str) -> Any:  # noqa: ANN401  text where there is no such size
    field = DIMENSIONS[name].field
    return value_of(model, field) if field else _shared_experts(model)


def _shared_experts(model: ModelSpec) -> int | None:
    """Shared experts in widths of a routed one; None without experts, and where that is no whole number."""
    moes = [layer.ffn for layer in model.layer_types if isinstance(layer.ffn, MoeFfnSpec)]
    counts = {divmod(moe.shared_intermediate, moe.intermediate) for moe in moes}
    if len(counts) != 1:
        return None
    ((count, rest),) = counts
    return None if rest else count


def shaped(base: ModelSpec, sizes: Mapping[str, int]) -> ModelSpec:
    """The model with other sizes. Its layers keep their pattern; the last ones are left out or repeated.

    What follows, unless it is given: heads grow with the hidden size (a head keeps its size); key-value heads stay as
    many as they are, or as many as heads where they were; shared experts are as wide as routed ones.
    Raises `ModelError` where sizes contradict each other.

    >>> from meshwright.costmodel.presets import load_model
    >>> wide = shaped(load_model("llama-3.1-8b"), {"hidden": 8192, "layers": 16})
    >>> wide.num_layers, wide.layers[0].attention.num_heads, wide.layers[0].attention.head_dim
    (16, 64, 128)
    """
    given = {DIMENSIONS[name].field: size for name, size in sizes.items() if DIMENSIONS[name].field}
    given |= _heads(base, sizes) | _shared_width(base, sizes)
    model = held_model(base, given)
    return msgspec.structs.replace(model, name=shape_name(base, sizes))


def shape_name(base: ModelSpec, sizes: Mapping[str, int]) -> str:
    """The base model's name with what is different."""
    own = sizes_of(base)
    return " ".join((base.name, *(f"{name}={size}" for name, size in sizes.items() if own.get(name) != size)))


def _heads(base: ModelSpec, sizes: Mapping[str, int]) -> dict[str, int]:
    own, given = sizes_of(base), {}
    if "hidden" in sizes and "heads" not in sizes and "heads" in own:
        heads, rest = divmod(own["heads"] * sizes["hidden"], base.hidden)
        if rest or not heads:
            size = base.hidden / own["heads"]
            raise ModelError(
                "shape",
                "hidden",
                f"{sizes['hidden']} is not a multiple of {size:g}, what {base.name} has of it a head; give heads too",
            )
        given["num_heads"] = heads
    heads = sizes.get("heads", given.get("num_heads", own.get("heads", 0)))
    if "kv-heads" not in sizes and heads and own.get("kv-heads") == own.get("heads"):
        given["num_kv_heads"] = heads
    return given


def _shared_width(base: ModelSpec, sizes: Mapping[str, int]) -> dict[str, int]:
    """The summed width of shared experts where their number or the width of an expert changes."""
    own = sizes_of(base)
    if not {"shared-experts", "expert-size"} & sizes.keys():
        return {}
    count = sizes.get("shared-experts", own.get("shared-experts"))
    if count is None:
        raise ModelError("shape", "expert-size", f"shared experts of {base.name} are no whole number of experts wide")
    width = sizes.get("expert-size", own.get("expert-size"))
    if width is None:
        raise ModelError("shape", "shared-experts", f"layers of {base.name} have experts of different widths")
    return {"shared_intermediate": count * width}
