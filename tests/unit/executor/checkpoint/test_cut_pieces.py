"""Rectangles are the elements they stand for."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from meshwright.executor.checkpoint.cut_pieces import flat_pieces, part_pieces, rectangles
from meshwright.executor.layer.groups import Communicator, LayerGroups
from meshwright.executor.layer.parameters import Block, Cut, ParameterSpec, Slices

SHAPES = st.lists(st.integers(1, 4), max_size=4).map(tuple)


@given(shape=SHAPES, data=st.data())
def test_a_range_is_its_rectangles_in_order(shape: tuple[int, ...], data: st.DataObject) -> None:
    size = math.prod(shape)
    start = data.draw(st.integers(0, size))
    stop = data.draw(st.integers(start, size))
    numbers = torch.arange(size).view(shape)
    found = []
    for part in rectangles(shape, start, stop):
        index = tuple(slice(o, o + s) for o, s in zip(part.offsets, part.sizes, strict=True))
        found += numbers[index].flatten().tolist()
        assert part.num_elements == math.prod(part.sizes) > 0
    assert found == list(range(start, stop))


@given(shape=SHAPES, data=st.data())
def test_rectangles_are_few(shape: tuple[int, ...], data: st.DataObject) -> None:
    size = math.prod(shape)
    start = data.draw(st.integers(0, size))
    stop = data.draw(st.integers(start, size))
    assert len(list(rectangles(shape, start, stop))) <= max(1, 2 * len(shape) - 1)


def test_pieces_of_blocks_are_where_the_spec_cuts_them() -> None:
    spec = ParameterSpec(name="w", shape=(3, 8), cut=Cut.FFN, dim=1, blocks=(Block(count=4), Block(count=2, size=2)))
    whole = torch.arange(24).view(3, 8)
    ranks = Communicator(size=2, rank=1)
    part = spec.part(whole, LayerGroups(ffn=ranks))
    pieces = list(part_pieces("w", spec, LayerGroups(ffn=ranks), part))
    assert [piece.offsets for piece in pieces] == [(0, 2), (0, 6)]
    for piece in pieces:
        assert torch.equal(piece.tensor, whole[:, piece.offsets[1] : piece.offsets[1] + 2])
    assert pieces[0].tensor.data_ptr() == part.data_ptr()


@given(cuts=st.lists(st.integers(0, 24), max_size=3).map(sorted))
def test_flat_shards_of_parts_are_the_whole(cuts: list[int]) -> None:
    """Two tensor-parallel ranks, each part cut flat at the same places."""
    spec = ParameterSpec(name="w", shape=(12, 4), cut=Cut.TENSOR, blocks=(Block(count=2, size=4), Block(count=4)))
    whole, found = torch.arange(48).view(12, 4), torch.full((12, 4), -1)
    for rank in range(2):
        groups = LayerGroups(tensor=Communicator(size=2, rank=rank))
        flat = spec.part(whole, groups).flatten()
        ends = [0, *cuts, 24]
        for start, stop in pairwise(ends):
            shard = flat[start:stop]
            for piece in flat_pieces("w", spec, groups, shard, start=start, part_shape=(6, 4)):
                index = tuple(slice(o, o + s) for o, s in zip(piece.offsets, piece.tensor.shape, strict=True))
                assert (found[index] == -1).all()
                found[index] = piece.tensor
    assert torch.equal(found, whole)


@given(cuts=st.lists(st.integers(0, 24), max_size=3).map(sorted))
def test_slices_of_experts_are_the_whole(cuts: list[int]) -> None:
    """Four experts on two ranks, each pair of which shares every expert's width."""
    blocks = (Block(count=4),)
    width = Block(count=2)
    spec = ParameterSpec(
        name="w", shape=(4, 4, 6), cut=Cut.EXPERT, blocks=blocks, slices=Slices(dim=1, blocks=(width, width))
    )
    whole, found = torch.arange(96).view(4, 4, 6), torch.full((4, 4, 6), -1)
    for rank in range(4):
        expert, sharing = Communicator(size=2, rank=rank // 2), Communicator(size=2, rank=rank % 2)
        groups = LayerGroups(expert=expert, expert_tensor=sharing)
        part = spec.part(whole, groups)
        assert part.shape == (2, 2, 6)
        for start, stop in pairwise([0, *cuts, 24]):
            shard = part.flatten()[start:stop]
            for piece in flat_pieces("w", spec, groups, shard, start=start, part_shape=(2, 2, 6)):
                index = tuple(slice(o, o + s) for o, s in zip(piece.offsets, piece.tensor.shape, strict=True))
                assert (found[index] == -1).all()
                found[index] = piece.tensor
    assert torch.equal(found, whole)


def test_what_is_not_cut_is_one_piece() -> None:
    spec = ParameterSpec(name="w", shape=(2, 3))
    (piece,) = part_pieces("w", spec, LayerGroups(), torch.ones(2, 3))
    assert (piece.offsets, piece.global_shape) == ((0, 0), (2, 3))
