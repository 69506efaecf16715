"""Reads the safetensors of a folder: one file or shards with an index, mapped, one tensor at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from meshwright.costmodel.errors import InputError
from meshwright.executor.weights.fp8_blocks import SUFFIX, Block, dequantized

if TYPE_CHECKING:
    from safetensors import safe_open

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, kw_only=True)
class WeightFolder:
    """The tensors of a checkpoint: where each one lies, and its shape."""

    path: Path
    files: dict[str, Path]
    shapes: dict[str, tuple[int, ...]]
    block: Block | None
    _open: dict[Path, safe_open]

    def tensor(self, name: str) -> Tensor:
        """One tensor, read now; of FP8 weights with scales, the float32 matrix that they stand for."""
        tensor, scales = self._stored(name), f"{name}{SUFFIX}"
        if tensor.dtype is not torch.float8_e4m3fn:
            return tensor
        if self.block is None or scales not in self.files:
            raise InputError(str(self.path), name, "FP8 without scales, expected weights in BF16, FP32, or FP8 blocks")
        return dequantized(tensor, self._stored(scales), self.block)

    def _stored(self, name: str) -> Tensor:
        tensor: Tensor = self._open[self.files[name]].get_tensor(name)
        return tensor


@contextmanager
def open_weights(folder: Path, block: Block | None = None) -> Iterator[WeightFolder]:
    """Map the files of a folder; raises `InputError` for a missing, truncated or contradictory one.

    `block`: of FP8 weights, the rows and columns that share a scale.
    """
    if find_spec("safetensors") is None:
        raise InputError("weights", "", "needs the package safetensors: pip install 'meshwright[train]'")
    names = _names_by_file(folder)
    with ExitStack() as stack:
        opened = {file: stack.enter_context(_open_file(file)) for file in names}
        files, shapes = {}, {}
        for file, handle in opened.items():
            found = set(handle.keys())
            for name in sorted(names[file] - found):
                raise InputError(str(file), name, f"no such tensor, but {INDEX} says that it is there")
            for name in names[file] or found:
                files[name] = file
                shapes[name] = tuple(handle.get_slice(name).get_shape())
        yield WeightFolder(path=folder, files=files, shapes=shapes, block=block, _open=opened)


def _names_by_file(folder: Path) -> dict[Path, set[str]]:
    """The tensors that each file has by the index; none named where there is one file and no index."""
    index = folder / INDEX
    if not index.is_file():
        single = folder / SINGLE
        if not single.is_file():
            raise InputError(str(folder), "", f"has neither {SINGLE} nor {INDEX}, expected Hugging Face weights")
        return {single: set()}
    names: dict[Path, set[str]] = {}
    for name, file in _weight_map(index).items():
        names.setdefault(folder / Path(file).name, set()).add(name)
    for path in sorted(names):
        if not path.is_file():
            raise InputError(str(path), "", f"no such file, but {INDEX} names it")
    return names


def _weight_map(index: Path) -> dict[str, str]:
    try:
        found = json.loads(index.read_bytes())
    except ValueError as error:
        raise InputError(str(index), "", f"not JSON: {error}") from error
    entries = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(entries, dict) or not all(isinstance(file, str) for file in entries.values()):
        raise InputError(str(index), "weight_map", "missing or no object, expected file names by tensor names")
    return entries


def _open_file(file: Path) -> safe_open:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise InputError(str(file), "", f"no whole safetensors file: {error}") from error
