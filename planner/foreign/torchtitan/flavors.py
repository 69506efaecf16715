"""torchtitan's models by name and flavor, as data: which preset each is, and in what it differs."""

from __future__ import annotations

from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path

import msgspec

from meshwright.costmodel.errors import InputError
from meshwright.costmodel.model import LayerSpec, ModelSpec
from meshwright.costmodel.presets import load_model, preset_names
from meshwright.costmodel.value import Value


class Flavor(Value, frozen=True, kw_only=True):
    """A preset; without chunked attention, query and key norms or prediction modules where torchtitan has none."""

    preset: str
    chunked: bool = True
    qk_norm: bool = True
    mtp: bool = True


class FlavorTable(Value, frozen=True, kw_only=True):
    """Flavors by model and name, and the version they were read from. `without_pipeline`: models that cannot be cut."""

    source: str
    without_pipeline: tuple[str, ...]
    flavors: dict[str, dict[str, Flavor]]


@lru_cache(maxsize=1)
def flavor_table() -> FlavorTable:
    """The packaged table."""
    path = Path(__file__).parent.parent / "data" / "torchtitan_flavors.json"
    return msgspec.json.decode(path.read_bytes(), type=FlavorTable)


def flavor_model(where: str, name: str, flavor: str) -> ModelSpec:
    """The model of a flavor; an `InputError` lists the known ones.

    A flavor of one's own that is called like a preset is that preset, without modules that predict further tokens.
    """
    flavors = flavor_table().flavors
    if name not in flavors:
        raise InputError(where, "model.name", f"{name!r} is unknown; expected one of {', '.join(flavors)}")
    known = flavors[name]
    if flavor not in known and flavor in preset_names():
        return _differing(load_model(flavor), Flavor(preset=flavor, mtp=False))
    if flavor not in known:
        near = get_close_matches(flavor, known, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}"
        raise InputError(where, "model.flavor", f"{flavor!r} is no known flavor of {name}; {hint}")
    return _differing(load_model(known[flavor].preset), known[flavor])


def _differing(model: ModelSpec, flavor: Flavor) -> ModelSpec:
    layers = tuple(_layer(layer, flavor) for layer in model.layers)
    return msgspec.structs.replace(model, layers=layers, mtp_depth=model.mtp_depth if flavor.mtp else 0)


def _layer(layer: LayerSpec, flavor: Flavor) -> LayerSpec:
    attention = layer.attention
    if not flavor.chunked:
        attention = msgspec.structs.replace(attention, chunk=0)
    if not flavor.qk_norm:
        attention = msgspec.structs.replace(attention, qk_norm=False)
    return msgspec.structs.replace(layer, attention=attention)
