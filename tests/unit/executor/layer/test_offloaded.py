"""Tensors that wait in host memory are gone meanwhile, and come back as they were, with one copy for neighbours."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from meshwright.executor.layer.host_buffers import HostBuffers
from meshwright.executor.layer.offloaded import PASSING, OffloadedTensors
from meshwright.executor.layer.values import Values, side_by_side

JOINT = torch.arange(48.0).view(4, 12)
TENSORS: dict[str, dict[str, Tensor]] = {
    "a joint product": dict(zip(("fc1_out", "fc3_out"), JOINT.split(6, 1), strict=True)),
    "columns of different width": dict(zip(("fc1_out", "fc3_out"), JOINT.split((8, 4), 1), strict=True)),
    "two joint products": {
        **dict(zip(("fc1_out", "fc3_out"), JOINT.split(6, 1), strict=True)),
        **dict(zip(("shared_fc1_out", "shared_fc3_out"), (JOINT + 1).split(6, 1), strict=True)),
    },
    "apart": {"fc1_out": JOINT.clone(), "fc3_out": JOINT + 1},
    "half of a product": {"fc1_out": JOINT.split(6, 1)[0]},
    "no rows": dict(zip(("fc1_out", "fc3_out"), torch.empty(0, 12).split(6, 1), strict=True)),
    "nothing": {},
}


def _values(tensors: dict[str, Tensor]) -> Values:
    values = Values()
    for name, tensor in tensors.items():
        values.put(name, tensor)
    values.put("kept", torch.ones(1))
    return values


@pytest.mark.parametrize("tensors", TENSORS.values(), ids=TENSORS)
def test_away_and_back(tensors: dict[str, Tensor]) -> None:
    values, forward, backward = _values(tensors), Values(), Values()
    offloaded = OffloadedTensors(values, tuple(tensors), HostBuffers())
    offloaded.leave(forward)
    assert (set(values.names()), set(forward.names())) == ({"kept"}, set())
    offloaded.come(backward)
    assert (set(values.names()), set(backward.names())) == ({"kept"}, {PASSING + name for name in tensors})
    offloaded.settle()
    assert (set(values.names()), set(backward.names())) == ({"kept", *tensors}, set())
    for name, tensor in tensors.items():
        assert torch.equal(values[name], tensor)
        assert values[name].untyped_storage().data_ptr() != tensor.untyped_storage().data_ptr() or not tensor.numel()


@pytest.mark.parametrize("tensors", [TENSORS["a joint product"], TENSORS["two joint products"]])
def test_neighbours_come_back_as_neighbours(tensors: dict[str, Tensor]) -> None:
    values = _values(tensors)
    offloaded = OffloadedTensors(values, tuple(tensors), HostBuffers())
    offloaded.leave_in_line()
    offloaded.settle()
    names = list(tensors)
    for pair in (names[:2], names[2:]):
        joint = side_by_side([values[name] for name in pair]) if pair else None
        assert not pair or (joint is not None and joint.is_contiguous())


def test_what_never_left_is_there() -> None:
    tensors = TENSORS["a joint product"]
    values = _values(tensors)
    OffloadedTensors(values, tuple(tensors), HostBuffers()).settle()
    assert values["fc1_out"] is tensors["fc1_out"]
