"""Tells torch.distributed.checkpoint which rectangles of which tensors a rank writes."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import SavePlan, TensorWriteData, WriteItem, WriteItemType

from meshwright.costmodel.errors import InputError
from meshwright.executor.checkpoint.pieces import Piece


class PieceSavePlanner(DefaultSavePlanner):
    """Plans pieces that are on the CPU. Of equal pieces of several ranks, one is written."""

    def __init__(self, pieces: Iterable[Piece]) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self._pieces = {_index(piece): piece for piece in pieces}

    def create_local_plan(self) -> SavePlan:
        """All pieces of this rank."""
        self.plan = SavePlan([_write_item(index, piece) for index, piece in self._pieces.items()])
        return self.plan

    def create_global_plan(self, all_plans: list[SavePlan]) -> tuple[list[SavePlan], Metadata]:
        """Who writes what; raises `InputError` where pieces are not all of a tensor."""
        _check_coverage(_distinct_items(all_plans))
        return super().create_global_plan(all_plans)

    def resolve_data(self, write_item: WriteItem) -> Tensor:
        """The piece that an item stands for."""
        return self._pieces[write_item.index].tensor


def _index(piece: Piece) -> MetadataIndex:
    return MetadataIndex(piece.name, piece.offsets)


def _write_item(index: MetadataIndex, piece: Piece) -> WriteItem:
    tensor = piece.tensor
    return WriteItem(
        index=index,
        type=WriteItemType.SHARD,
        tensor_data=TensorWriteData(
            chunk=ChunkStorageMetadata(offsets=torch.Size(piece.offsets), sizes=tensor.shape),
            properties=TensorProperties(dtype=tensor.dtype),
            size=torch.Size(piece.global_shape),
        ),
    )


def _distinct_items(plans: list[SavePlan]) -> list[WriteItem]:
    """One item for each place. Pieces of one tensor agree in its shape and format, those at one place in their size."""
    tensors: dict[str, tuple[torch.Size, torch.dtype]] = {}
    places: dict[MetadataIndex, WriteItem] = {}
    for rank, item in ((rank, item) for rank, plan in enumerate(plans) for item in plan.items):
        data = _data(item)
        kind = (data.size, data.properties.dtype)
        if tensors.setdefault(item.index.fqn, kind) != kind:
            raise _contradiction(item, f"{_kind_words(*kind)} on rank {rank}", _kind_words(*tensors[item.index.fqn]))
        first = _data(places.setdefault(item.index, item)).chunk
        if first != data.chunk:
            words = f"a part of shape {tuple(data.chunk.sizes)} at {tuple(data.chunk.offsets)} on rank {rank}"
            raise _contradiction(item, words, f"{tuple(first.sizes)}")
    return list(places.values())


def _contradiction(item: WriteItem, found: str, expected: str) -> InputError:
    return InputError("checkpoint", item.index.fqn, f"{found}, expected {expected} as on ranks before")


def _kind_words(size: torch.Size, dtype: torch.dtype) -> str:
    return f"shape {tuple(size)} of {dtype}"


def _check_coverage(items: list[WriteItem]) -> None:
    """Parts are as many elements as the whole; that they do not overlap is checked by torch."""
    found: dict[str, int] = {}
    wholes: dict[str, int] = {}
    for item in items:
        data = _data(item)
        found[item.index.fqn] = found.get(item.index.fqn, 0) + math.prod(data.chunk.sizes)
        wholes[item.index.fqn] = math.prod(data.size)
    for name, whole in wholes.items():
        if found[name] != whole:
            raise InputError("checkpoint", name, f"parts of {found[name]:,} elements in all, expected {whole:,}")


def _data(item: WriteItem) -> TensorWriteData:
    assert item.tensor_data is not None  # every item of ours has it
    return item.tensor_data


def saved_tensors(metadata: Metadata) -> dict[str, TensorStorageMetadata]:
    """The tensors of a checkpoint by name."""
    found = metadata.state_dict_metadata.items()
    return {name: tensor for name, tensor in found if isinstance(tensor, TensorStorageMetadata)}
