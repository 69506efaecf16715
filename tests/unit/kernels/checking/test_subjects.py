"""What is timed and what it is measured against compute the same."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, is_dataclass

import pytest
import torch
from torch import Tensor

from meshwright.kernels.checking import baselines, subjects
from meshwright.kernels.checking.error import worst_row_error
from meshwright.kernels.checking.shapes import MODELS, MoeShape, moe_shape
from meshwright.kernels.checking.subjects import Subject
from meshwright.kernels.index.operator import index
from meshwright.kernels.regroup.operator import regroup
from meshwright.kernels.route.operator import route

CPU = torch.device("cpu")
SHAPE = MoeShape(
    model="tiny",
    tokens=64,
    hidden=32,
    intermediate=128,
    experts=8,
    top_k=2,
    score=moe_shape("mixtral-8x7b").score,
    biased=False,
    num_groups=1,
    groups_per_token=1,
)
LOOSE = 0.02


def _rows_subjects() -> Iterable[Subject]:
    yield from subjects._arrived_subjects(SHAPE, CPU)
    yield from subjects._permute_subjects(SHAPE, CPU)
    yield from (subject for subject in subjects._swiglu_subjects(SHAPE, CPU) if subject.kernel == "swiglu")


def _floats(result: object) -> list[Tensor]:
    """The tensors of a result that are not integers, in order."""
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, tuple):
        parts = list(result)
    else:
        assert is_dataclass(result)
        parts = [getattr(result, field.name) for field in fields(result)]
    return [part for part in parts if isinstance(part, Tensor) and part.is_floating_point()]


@pytest.mark.parametrize("subject", list(_rows_subjects()), ids=lambda subject: subject.what)
def test_baselines_compute_what_the_kernel_does(subject: Subject) -> None:
    inputs = subject.make()
    own = _floats(subject.run(*inputs))
    for make in subject.baselines.values():
        other = _floats(make(lambda function: function)(*inputs))
        assert len(own) == len(other)
        for found, truth in zip(own, other, strict=True):
            assert worst_row_error(found.flatten(), truth.flatten().float()) < LOOSE


def test_the_routing_baseline_chooses_the_same_experts() -> None:
    logits = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    options = moe_shape("qwen3-30b-a3b").options
    own = route(logits, options)
    experts, weights, counts, sums = baselines.route(logits, None, options)
    assert torch.equal(own.experts_TK.sort(-1).values, experts.sort(-1).values.to(torch.int32))
    torch.testing.assert_close(own.weights_TK.sum(-1), weights.sum(-1))
    assert torch.equal(own.counts_E, counts)
    torch.testing.assert_close(own.sums_E, sums)


@pytest.mark.parametrize("wait", [True, False])
def test_the_index_baselines_give_the_same_maps(wait: bool) -> None:
    experts = torch.randint(0, 8, (64, 2), dtype=torch.int32, generator=torch.Generator().manual_seed(0))
    own = index(experts, 8)
    function = baselines.index if wait else baselines.index_without_wait
    slots, places, *_, offsets = function(experts, 8)
    assert torch.equal(own.slots_P.long(), slots)
    assert torch.equal(own.places_TK.flatten().long(), places)
    assert torch.equal(own.offsets_E.long(), offsets.long())


def test_the_regroup_baseline_gives_the_same_maps() -> None:
    subject = subjects._regroup_subject(SHAPE, CPU)
    (counts,) = subject.make()
    assert isinstance(counts, Tensor)
    own = regroup(counts, SHAPE.slots)
    slots, places, offsets = baselines.regroup(counts, SHAPE.slots)
    assert torch.equal(own.slots_P.long(), slots)
    assert torch.equal(own.places_TK.flatten().long(), places)
    assert torch.equal(own.offsets_E, offsets)


@pytest.mark.parametrize("model", MODELS)
def test_shapes_are_those_of_the_presets(model: str) -> None:
    shape = moe_shape(model)
    assert shape.slots == 8192 * shape.top_k
    assert shape.intermediate % 128 == shape.hidden % 128 == 0
