"""Buffers of parameters: views, gradient sums, masters."""

from __future__ import annotations

from math import sqrt

import pytest
import torch
from torch import Tensor

from meshwright.executor.layer.groups import Communicator, LayerGroups
from meshwright.executor.layer.parameters import ParameterSpec
from meshwright.executor.state.flat import ALIGNMENT, FlatKind, FlatParameters, Holders, OwnedParameter
from meshwright.executor.state.norm import own_square_sum
from meshwright.executor.state.optimizer import AdamWSettings, Optimizer

CPU = torch.device("cpu")
SHAPES = {"a": (3, 5), "b": (7,)}


def make_flat(
    dtype: torch.dtype = torch.bfloat16,
    *,
    decays: bool = True,
    holders: Holders | None = None,
    keeps_whole: bool = True,
    on_host: bool = False,
    device: torch.device = CPU,
) -> FlatParameters:
    owned = [
        OwnedParameter(name=name, spec=ParameterSpec(name=name, shape=shape), groups=LayerGroups())
        for name, shape in SHAPES.items()
    ]
    kind = FlatKind(split=1, decays=decays)
    flat = FlatParameters(
        kind, owned, holders or Holders(), keeps_whole=keeps_whole, on_host=on_host, dtype=dtype, device=device
    )
    flat.fill(draw)
    return flat


def draw(owned: OwnedParameter, like: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(len(owned.name))
    return torch.randn(owned.shape, generator=generator, dtype=like.dtype)


def test_parameters_are_aligned_views_of_one_buffer() -> None:
    flat = make_flat()
    for name, shape in SHAPES.items():
        view = flat.views(flat.weights)[name]
        assert view.shape == shape
        assert view.storage_offset() % ALIGNMENT == 0
        assert view.untyped_storage().data_ptr() == flat.weights.untyped_storage().data_ptr()


def test_masters_keep_what_weights_round() -> None:
    flat = make_flat()
    exact = draw(flat.owned[0], flat.master)
    assert torch.equal(flat.master_parts()["a"], exact)
    assert torch.equal(flat.views(flat.weights)["a"], exact.to(torch.bfloat16))
    assert not torch.equal(flat.views(flat.weights)["a"].float(), exact)


def test_between_parameters_are_gaps() -> None:
    flat = make_flat()
    marked = torch.zeros(flat.size)
    for view in flat.views(marked).values():
        view.fill_(1.0)
    for gap in flat.gaps():
        marked[gap] += 2.0
    assert set(marked.tolist()) == {1.0, 2.0}


@pytest.mark.parametrize("keeps_whole", [True, False])
def test_shards_are_equal_parts_of_the_buffer(keeps_whole: bool) -> None:
    whole = make_flat(holders=Holders(replicas=Communicator(size=3)))
    shards = [
        make_flat(holders=Holders(shards=Communicator(size=3, rank=rank)), keeps_whole=keeps_whole) for rank in range(3)
    ]
    assert torch.equal(torch.cat([flat.master for flat in shards]), whole.master)
    assert torch.equal(torch.cat([flat.weight_shard for flat in shards]), whole.weights)
    assert {flat.weights.numel() for flat in shards} == {whole.size if keeps_whole else whole.size // 3}
    found = [(one.name, start, place.stop - place.start) for flat in shards for one, start, place in flat.segments()]
    assert sum(count for _, _, count in found) == 3 * 5 + 7


def test_the_norm_counts_every_element_once() -> None:
    flats = [make_flat(), make_flat(holders=Holders(replicas=Communicator(size=2)))]
    gradients = [torch.full_like(flat.master, 2.0) for flat in flats]
    expected = 4.0 * (flats[0].size + flats[1].size / 2)
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
    flat.round_weights()
    assert torch.equal(flat.weights, flat.master.to(torch.bfloat16))


@pytest.mark.gpu
def test_masters_in_host_memory_do_what_they_do_on_a_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    check_masters_on_host(torch.device("cuda"))


def test_masters_in_host_memory_are_apart_from_weights() -> None:
    check_masters_on_host(CPU)


def check_masters_on_host(device: torch.device) -> None:
    """Twice, as staging memory is reused."""
    host, here = (make_flat(device=device, on_host=on_host) for on_host in (True, False))
    assert host.master.device == CPU
    optimizers = [Optimizer([flat], AdamWSettings()) for flat in (host, here)]
    for value in (1.0, -3.0):
        for optimizer, flat in zip(optimizers, (host, here), strict=True):
            gradient = torch.full_like(flat.weight_shard, value, dtype=torch.float32)
            optimizer.step([gradient], norm=2.0, learning_rate=0.1)
        torch.testing.assert_close(host.master, here.master.cpu())
        torch.testing.assert_close(host.weights.float(), here.weights.float(), rtol=2.0**-7, atol=0.0)
    assert torch.equal(host.weights.cpu(), host.master.to(torch.bfloat16))
