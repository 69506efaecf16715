"""Writes whole tensors by our names as a Hugging Face folder: shards, index and config.json, all or nothing."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from meshwright.costmodel.errors import InputError
from meshwright.costmodel.model import ModelSpec
from meshwright.executor.weights.companions import NO_COMPANIONS, Companions
from meshwright.executor.weights.config import family_and_config
from meshwright.executor.weights.config_file import CONFIG
from meshwright.executor.weights.import_weights import CORRECTION
from meshwright.executor.weights.mapping import WeightMapping, weight_mapping
from meshwright.executor.weights.numerics import ModelNumerics
from meshwright.executor.weights.weight_folder import INDEX, SINGLE

SHARD_BYTES = 5 * 10**9


def export_weights(
    tensors: Iterable[tuple[str, Tensor]],
    folder: Path,
    model: ModelSpec,
    numerics: ModelNumerics,
    *,
    max_length: int,
    companions: Companions = NO_COMPANIONS,
    dtype: torch.dtype | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write every parameter of a model, given once each in any order, and what goes with them.

    `folder` must not exist, or be empty; it appears when it is whole. `dtype`: converted; None as they come. At most
    one shard and one tensor are in memory. Raises `InputError` for a tensor that is missing, unknown or of another
    shape, for a model of no known family, and for a full disk.
    """
    family, config = family_and_config(model, numerics, max_length)
    mapping = weight_mapping(model, family)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(str(folder), "", "exists, expected a new or empty folder")
    if not folder.parent.is_dir():
        raise InputError(str(folder), "", "cannot be written; expected a place in an existing folder")
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        shards = _Shards(temporary, shard_bytes)
        for name, tensor in _checked(tensors, mapping, folder):
            for source, part in _sources(name, tensor, mapping, dtype):
                shards.add(source, part)
        config |= {"torch_dtype": shards.format_name, **companions.token_ids}
        shards.finish()
        companions.write_to(temporary)
        _write(temporary / CONFIG, msgspec.json.format(msgspec.json.encode(config), indent=2) + b"\n")
        temporary.chmod(0o755)
        temporary.replace(folder)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        problem = "no space left on the disk; nothing was written" if full else f"cannot be written: {error.strerror}"
        raise InputError(str(folder), "", problem) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _checked(
    tensors: Iterable[tuple[str, Tensor]], mapping: WeightMapping, folder: Path
) -> Iterator[tuple[str, Tensor]]:
    where, left = f"export to {folder}", dict(mapping.shapes)
    for name, tensor in tensors:
        if name not in left:
            raise InputError(
                where, name, "given twice" if name in mapping.shapes else "the model has no such parameter"
            )
        if tuple(tensor.shape) != left[name]:
            raise InputError(where, name, f"shape {tuple(tensor.shape)}, expected {left[name]}")
        del left[name]
        yield name, tensor
    if left:
        more = f" (and {len(left) - 1} more)" if len(left) > 1 else ""
        raise InputError(where, next(iter(left)), f"missing{more}")


def _sources(
    name: str, tensor: Tensor, mapping: WeightMapping, dtype: torch.dtype | None
) -> Iterator[tuple[str, Tensor]]:
    if dtype is not None and not name.endswith(CORRECTION):
        tensor = tensor.to(dtype)
    for region in mapping.regions[name]:
        yield region.source, region.take(tensor).cpu()
    for copy, original in mapping.copies.items():
        if original == name and copy != "lm_head.weight":  # a tied head is written nowhere
            yield copy, tensor.cpu().clone()


class _Shards:
    """Collects tensors into files of about equal size."""

    def __init__(self, folder: Path, shard_bytes: int) -> None:
        self._folder = folder
        self._shard_bytes = shard_bytes
        self._tensors: dict[str, Tensor] = {}
        self._files: list[tuple[Path, list[str]]] = []
        self._num_bytes = 0
        self._total_bytes = 0
        self.format_name = ""

    def add(self, name: str, tensor: Tensor) -> None:
        if self._num_bytes + tensor.nbytes > self._shard_bytes and self._tensors:
            self._save()
        if not self.format_name:
            self.format_name = str(tensor.dtype).removeprefix("torch.")
        self._tensors[name] = tensor
        self._num_bytes += tensor.nbytes
        self._total_bytes += tensor.nbytes

    def finish(self) -> None:
        """Write the rest, give the files their names, write the index."""
        self._save()
        count = len(self._files)
        weight_map: dict[str, str] = {}
        for number, (file, names) in enumerate(self._files, 1):
            name = SINGLE if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"
            file.replace(self._folder / name)
            weight_map |= dict.fromkeys(names, name)
        if count > 1:
            index = {"metadata": {"total_size": self._total_bytes}, "weight_map": dict(sorted(weight_map.items()))}
            _write(self._folder / INDEX, msgspec.json.format(msgspec.json.encode(index), indent=2) + b"\n")

    def _save(self) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        file = self._folder / f"shard-{len(self._files)}"
        try:
            save_file(self._tensors, file, metadata={"format": "pt"})
        except SafetensorError as error:  # how the library reports any failure to write
            raise OSError(errno.ENOSPC if "No space" in str(error) else errno.EIO, str(error)) from error
        with file.open("rb") as written:
            os.fsync(written.fileno())
        self._files.append((file, list(self._tensors)))
        self._tensors, self._num_bytes = {}, 0


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
