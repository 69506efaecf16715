"""What a plan does not say of its model: epsilons, rotary positions, weights of experts; and where that comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import msgspec

from meshwright.costmodel.errors import ModelError
from meshwright.costmodel.huggingface import read_config
from meshwright.costmodel.model import LayerSpec, ModelSpec, with_num_layers
from meshwright.costmodel.presets import preset_file
from meshwright.executor.weights.config_file import CONFIG, read_config_fields
from meshwright.executor.weights.numerics import ModelNumerics, has_numerics, read_numerics_alone

MAX_LENGTH = "max_position_embeddings"
SHOWN = 3
"""Differing fields that are named; a model of another kind has dozens."""
PLAIN = "plain values: of no preset that has others; --model takes those of a config.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribedModel:
    """A model's numerics, `source` where they come from in words, and its longest sequence, 0 where none is said."""

    numerics: ModelNumerics
    source: str
    max_length: int = 0


def describe_model(model: ModelSpec, config: Path | None) -> DescribedModel:
    """By a config.json or the folder that holds it; without one by the preset that the model is, else plain values.

    Raises `ModelError` where the file has another model, with fields that differ.
    """
    if config is not None:
        file = config / CONFIG if config.is_dir() else config
        fields = read_config_fields(file)
        check_same_model(model, read_config(fields, str(file), model.name), str(file))
        length = fields.get(MAX_LENGTH)
        return DescribedModel(
            numerics=read_numerics_alone(fields, str(file)),
            source=str(file),
            max_length=length if isinstance(length, int) else 0,
        )
    preset = preset_file(model.name)
    fields = {} if preset is None else read_config_fields(preset)
    if has_numerics(fields) and _is_preset(model, fields):
        return DescribedModel(numerics=read_numerics_alone(fields, str(preset)), source=f"preset {model.name}")
    return DescribedModel(numerics=ModelNumerics(), source=PLAIN)


def _is_preset(model: ModelSpec, fields: Mapping[str, object]) -> bool:
    """Whether the model is the preset, or its first layers."""
    preset = read_config(fields, model.name, model.name)
    if model.num_layers < preset.num_layers:
        preset = with_num_layers(preset, model.num_layers)
    return not differences(model, preset)


def check_same_model(planned: ModelSpec, found: ModelSpec, where: str) -> None:
    """Raise `ModelError` with the first fields in which a model is not the plan's."""
    differing = differences(planned, found)
    more = len(differing) - SHOWN
    if differing:
        shown = "; ".join(differing[:SHOWN]) + (f"; and {more} more" if more > 0 else "")
        raise ModelError(where, "", f"not the plan's model: {shown}")


def differences(planned: ModelSpec, found: ModelSpec) -> list[str]:
    """A text for every field that differs, whatever the models are called and where they come from."""
    wholes = {"name": "", "source": "", "layers": found.layers}
    texts = list(_compared(msgspec.structs.replace(planned, **wholes), msgspec.structs.replace(found, **wholes)))
    if planned.num_layers != found.num_layers:
        return [f"num_layers: {found.num_layers}, the plan has {planned.num_layers}", *texts]
    return texts + list(_of_layers(planned.layers, found.layers))


def _of_layers(planned: tuple[LayerSpec, ...], found: tuple[LayerSpec, ...]) -> Iterator[str]:
    """What differs in consecutive layers alike is told once."""
    pairs = list(enumerate(zip(planned, found, strict=True)))
    for (was, is_now), run in groupby(pairs, key=lambda pair: pair[1]):
        numbers = [index for index, _ in run]
        words = f"layer {numbers[0]}" if len(numbers) == 1 else f"layers {numbers[0]} to {numbers[-1]}"
        yield from (f"{words}: {text}" for text in _compared(was, is_now))


def _compared(planned: msgspec.Struct, found: msgspec.Struct) -> Iterator[str]:
    was, is_now = dict(_leaves(planned)), dict(_leaves(found))
    for name in dict.fromkeys((*was, *is_now)):
        if was.get(name) != is_now.get(name):
            yield f"{name}: {is_now.get(name, 'none')}, the plan has {was.get(name, 'none')}"


def _leaves(value: msgspec.Struct, prefix: str = "") -> Iterator[tuple[str, object]]:
    for name in value.__struct_fields__:
        field = getattr(value, name)
        if isinstance(field, msgspec.Struct):
            yield from _leaves(field, f"{prefix}{name}.")
        elif not isinstance(field, tuple):
            yield f"{prefix}{name}", field
