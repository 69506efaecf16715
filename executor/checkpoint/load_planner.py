"""Tells torch.distributed.checkpoint which parts of saved rectangles fill which pieces of a rank."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, ReadItem
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from meshwright.costmodel.errors import InputError
from meshwright.executor.checkpoint.pieces import Piece
from meshwright.executor.checkpoint.save_planner import saved_tensors


class PieceLoadPlanner(LoadPlanner):
    """Fills pieces in place, whatever the layout that wrote them."""

    def __init__(self, pieces: Iterable[Piece], where: Path) -> None:
        self._pieces: dict[str, list[Piece]] = {}
        for piece in pieces:
            self._pieces.setdefault(piece.name, []).append(piece)
        self._places = {(piece.name, piece.offsets): piece for pieces in self._pieces.values() for piece in pieces}
        self._where = where
        self._saved: dict[str, TensorStorageMetadata] = {}

    def set_up_planner(
        self,
        state_dict: dict[str, object],  # noqa: ARG002  the pieces are given already
        metadata: Metadata | None = None,
        is_coordinator: bool = False,  # noqa: ARG002
    ) -> None:
        """Take what the checkpoint has."""
        assert metadata is not None
        self._saved = saved_tensors(metadata)

    def create_local_plan(self) -> LoadPlan:
        """What this rank reads; raises `InputError` where the checkpoint has not all of it."""
        return LoadPlan([item for name in self._pieces for item in self._reads(name)])

    def _reads(self, name: str) -> list[ReadItem]:
        saved, pieces = self._saved.get(name), self._pieces[name]
        if saved is None:
            raise InputError(str(self._where), name, "not in the checkpoint")
        for piece in pieces:
            if tuple(saved.size) != piece.global_shape:
                raise InputError(str(self._where), name, f"shape {tuple(saved.size)}, expected {piece.global_shape}")
            if saved.properties.dtype != piece.tensor.dtype:
                raise InputError(str(self._where), name, f"{saved.properties.dtype}, expected {piece.tensor.dtype}")
        chunks = [ChunkStorageMetadata(torch.Size(piece.offsets), piece.tensor.shape) for piece in pieces]
        items = create_read_items_for_chunk_list(name, saved, chunks)
        found, wanted = sum(math.prod(item.lengths) for item in items), sum(p.tensor.numel() for p in pieces)
        if found != wanted:
            raise InputError(str(self._where), name, f"{found:,} elements of what is wanted, expected {wanted:,}")
        return items

    def create_global_plan(self, global_plan: list[LoadPlan]) -> list[LoadPlan]:
        """Every rank reads for itself."""
        return global_plan

    def finish_plan(self, central_plan: LoadPlan) -> LoadPlan:
        """As it is."""
        return central_plan

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:  # noqa: ARG002
        """Never called: all that is saved are tensors."""
        raise TypeError(f"{read_item.dest_index.fqn} is no tensor")

    def resolve_tensor(self, read_item: ReadItem) -> Tensor:
        """The place that an item fills."""
        index = read_item.dest_index
        part = self._places[index.fqn, tuple(index.offset or ())].tensor
        for dim, (offset, length) in enumerate(zip(read_item.dest_offsets, read_item.lengths, strict=True)):
            part = part.narrow(dim, offset, length)
        return part

    def commit_tensor(self, read_item: ReadItem, tensor: Tensor) -> None:
        """It is there: pieces are filled in place."""
