"""Buffers of parameters: views, gradient sums, masters."""

from __future__ import annotations

from math import sqrt

import pytest
import torch
from torch import Tensor

from meshwright.executor.layer.groups import ALONE, LayerGroups
from meshwright.executor.layer.parameters import ParameterSpec
from meshwright.executor.state.exchange import publish_weights, reduce_gradients
from meshwright.executor.state.flat import ALIGNMENT, FlatKind, FlatParameters, OwnedParameter
from meshwright.executor.state.norm import own_square_sum
from meshwright.executor.state.optimizer import AdamWSettings, Optimizer

CPU = torch.device("cpu")
SHAPES = {"a": (3, 5), "b": (7,)}


def make_flat(dtype: torch.dtype = torch.bfloat16, *, decays: bool = True, sums_wide: bool = True) -> FlatParameters:
    owned = [
        OwnedParameter(name=name, spec=ParameterSpec(name=name, shape=shape), groups=LayerGroups())
        for name, shape in SHAPES.items()
    ]
    kind = FlatKind(split=1, decays=decays)
    flat = FlatParameters(kind, owned, copies=ALONE, shards=True, sums_wide=sums_wide, dtype=dtype, device=CPU)
    flat.fill(draw)
    return flat


def draw(owned: OwnedParameter, like: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(len(owned.name))
    return torch.randn(owned.shape, generator=generator, dtype=like.dtype)


def test_parameters_are_aligned_views_of_one_buffer() -> None:
    flat = make_flat()
    for name, shape in SHAPES.items():
        view = flat.weight_of[name]
        assert view.shape == shape
        assert view.storage_offset() % ALIGNMENT == 0
        assert view.untyped_storage().data_ptr() == flat.weights.untyped_storage().data_ptr()


def test_masters_keep_what_weights_round() -> None:
    flat = make_flat()
    exact = draw(flat.owned[0], flat.master)
    assert torch.equal(flat.master_parts()["a"], exact)
    assert torch.equal(flat.weight_of["a"], exact.to(torch.bfloat16))
    assert not torch.equal(flat.weight_of["a"].float(), exact)


@pytest.mark.parametrize(("sums_wide", "expected"), [(True, 258.0), (False, 256.0)])
def test_gradients_of_micro_batches_add_up_in_float32_where_the_plan_says_so(sums_wide: bool, expected: float) -> None:
    flat = make_flat(sums_wide=sums_wide)
    total = flat.accumulator_of["a"]
    for value in (256.0, 1.0, 1.0):
        total.add(torch.full((3, 5), value, dtype=torch.bfloat16))
    reduced = reduce_gradients(flat, torch.float32)
    assert reduced.dtype is torch.float32
    assert float(reduced[0]) == expected  # in bfloat16, 256 + 1 is 256


def test_a_new_step_forgets_the_last_and_what_gets_no_gradient_is_zero() -> None:
    flat = make_flat()
    for accumulator in flat.accumulator_of.values():
        accumulator.add(torch.ones_like(accumulator.total))
    flat.restart_gradients()
    flat.accumulator_of["a"].add(torch.full((3, 5), 2.0))
    reduced = reduce_gradients(flat, torch.float32)
    assert float(reduced.sum()) == 2.0 * 15


def test_the_norm_counts_every_element_once() -> None:
    flats = [make_flat(), make_flat()]
    gradients = [torch.full_like(flat.master, 2.0) for flat in flats]
    expected = 4.0 * 2 * flats[0].size
    assert sqrt(float(own_square_sum(flats, gradients, counts_tied=True))) == pytest.approx(sqrt(expected))


@pytest.mark.parametrize("decays", [True, False])
def test_a_step_without_gradients_only_decays(decays: bool) -> None:
    flat = make_flat(torch.float32, decays=decays)
    before = flat.master.clone()
    optimizer = Optimizer([flat], AdamWSettings(weight_decay=0.5))
    optimizer.step([torch.zeros_like(flat.master)], norm=0.0, learning_rate=0.1)
    factor = 0.95 if decays else 1.0
    torch.testing.assert_close(flat.master, before * factor)
    torch.testing.assert_close(flat.weights, flat.master)


def test_gradients_above_the_limit_are_scaled_down_to_it() -> None:
    flat = make_flat(torch.float32)
    gradient = torch.full_like(flat.master, 3.0)
    optimizer = Optimizer([flat], AdamWSettings(max_norm=1.0, betas=(0.0, 0.0)))
    optimizer.step([gradient], norm=6.0, learning_rate=0.0)
    torch.testing.assert_close(optimizer.moments(flat)["exp_avg"], torch.full_like(gradient, 0.5))


def test_weights_follow_their_masters() -> None:
    flat = make_flat()
    flat.master.mul_(2.0)
    publish_weights(flat)
    assert torch.equal(flat.weights, flat.master.to(torch.bfloat16))
