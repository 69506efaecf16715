"""Weights of a Hugging Face folder as whole tensors by our names."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from meshwright.costmodel.errors import InputError
from meshwright.costmodel.huggingface import read_config
from meshwright.costmodel.model import ModelSpec
from meshwright.executor.weights.config_file import CONFIG, read_config_fields
from meshwright.executor.weights.families import family_named
from meshwright.executor.weights.fp8_blocks import SUFFIX, Block, read_block, scales_shape
from meshwright.executor.weights.mapping import WeightMapping, weight_mapping
from meshwright.executor.weights.numerics import ModelNumerics, read_numerics
from meshwright.executor.weights.region import Region
from meshwright.executor.weights.weight_folder import WeightFolder, open_weights

NOT_READ = re.compile(r".*\.rotary_emb\.inv_freq")
"""Tables that older checkpoints hold beside the weights."""
LAYER = re.compile(r"model\.layers\.(\d+)\..*")
CORRECTION = "router.correction"
"""Kept as it is whatever the format of the weights: it decides between experts whose scores nearly agree."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightSource:
    """A folder with weights, and what its config.json says."""

    folder: Path
    model: ModelSpec
    numerics: ModelNumerics
    mapping: WeightMapping
    block: Block | None = None

    def tensors(
        self,
        names: Collection[str] | None = None,
        dtype: torch.dtype | None = None,
        experts: range | None = None,
    ) -> Iterator[tuple[str, Tensor]]:
        """Whole tensors by our names, one after another, in the order of the model.

        `names`: these alone (those of a stage). `dtype`: converted, but for correction biases; None as they are stored,
        FP8 weights in float32.
        `experts`: of routed experts, only these are read (those of a rank). All tensors of the folder are checked
        first: raises `InputError` for one that is missing, unexpected or of another shape.
        """
        wanted = self.mapping.regions.keys() if names is None else names
        for name in sorted(set(wanted) - self.mapping.regions.keys()):
            raise InputError(str(self.folder), name, "the model has no such parameter")
        with open_weights(self.folder, self.block) as folder:
            _check(folder, self.mapping, self.model)
            for name, regions in self.mapping.regions.items():
                if name in wanted:
                    kept = regions if experts is None else _of_experts(regions, experts)
                    shape = self.mapping.shapes[name]
                    if kept[0].is_expert and experts is not None:
                        shape = (len(experts), *shape[1:])
                    yield name, _assembled(folder, kept, shape, None if name.endswith(CORRECTION) else dtype)


def open_source(folder: Path, *, with_prediction_modules: bool = True) -> WeightSource:
    """The weights of a folder with a config.json; raises `InputError`.

    `with_prediction_modules`: False leaves out multi-token-prediction modules, as inference does.
    """
    path = folder / CONFIG
    config = read_config_fields(path)
    model = read_config(config, str(path), folder.resolve().name)
    if not with_prediction_modules:
        model = msgspec.structs.replace(model, mtp_depth=0)
    family = family_named(str(config.get("model_type")), str(path))
    interleaved = config.get("rope_interleave") is not False
    return WeightSource(
        folder=folder,
        model=model,
        numerics=read_numerics(config, str(path)),
        mapping=weight_mapping(model, family, interleaved=interleaved),
        block=read_block(config, str(path)),
    )


def _of_experts(regions: tuple[Region, ...], experts: range) -> tuple[Region, ...]:
    """The regions of these experts, counted from the first of them; all where there are no experts."""
    if not regions[0].is_expert:
        return regions
    return tuple(region.of_expert(experts.start) for region in regions if region.index[0] in experts)


def _assembled(
    folder: WeightFolder, regions: tuple[Region, ...], shape: tuple[int, ...], dtype: torch.dtype | None
) -> Tensor:
    first = folder.tensor(regions[0].source)
    target = torch.empty(shape, dtype=dtype or first.dtype)
    for region in regions:
        tensor = first if region is regions[0] else folder.tensor(region.source)
        if tensor.dtype != first.dtype:
            raise InputError(
                str(folder.path),
                region.source,
                f"{tensor.dtype}, but {regions[0].source} is {first.dtype}; expected one format of both",
            )
        region.put(target, tensor)
    return target


def _check(folder: WeightFolder, mapping: WeightMapping, model: ModelSpec) -> None:
    expected = mapping.sources
    where = str(folder.path)
    if folder.block is not None:
        scaled = {f"{name}{SUFFIX}": shape for name, shape in expected.items() if f"{name}{SUFFIX}" in folder.shapes}
        expected |= {name: scales_shape(shape, folder.block) for name, shape in scaled.items()}
    missing = [name for name in expected if name not in folder.shapes]
    if missing and all(_is_of_prediction(name, model) for name in missing):
        problem = "no prediction modules in the files, expected them, or to be asked for the model without them"
        raise InputError(where, missing[0], problem)
    if missing:
        raise InputError(where, missing[0], f"missing{_and_more(missing)}, expected {_words(expected[missing[0]])}")
    unexpected = [name for name in folder.shapes if name not in expected and not _is_left_out(name, mapping, model)]
    if unexpected:
        raise InputError(
            where, unexpected[0], f"unexpected{_and_more(unexpected)}: the config.json has no place for it"
        )
    for name, shape in expected.items():
        if folder.shapes[name] != shape:
            raise InputError(where, name, f"{_words(folder.shapes[name])}, expected {_words(shape)}")


def _is_left_out(name: str, mapping: WeightMapping, model: ModelSpec) -> bool:
    behind = model.mtp_depth == 0 and _is_of_prediction(name, model)
    return behind or name in mapping.copies or NOT_READ.fullmatch(name) is not None


def _is_of_prediction(name: str, model: ModelSpec) -> bool:
    """Whether a tensor of a file is of a multi-token-prediction module: of a layer behind the last."""
    layer = LAYER.fullmatch(name)
    return layer is not None and int(layer[1]) >= model.num_layers


def _and_more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _words(shape: tuple[int, ...]) -> str:
    return f"shape ({', '.join(str(size) for size in shape)})"
