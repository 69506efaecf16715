"""A forward beside a backward computes what one behind the other does, whatever the order and the streams."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import combinations, pairwise
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from meshwright.costmodel.layer_passes import pass_operators
from meshwright.costmodel.order.launch_order import Launch, LayerOrder, PassKind, PassOrder
from meshwright.costmodel.program.operators import BESIDE, MemoryWork, Operator, Resource
from meshwright.costmodel.program.program import LayerProgram
from meshwright.costmodel.strategy import LayerStrategy, Recompute
from meshwright.executor.layer.cuda_streams import CudaStreams
from meshwright.executor.layer.parameters import Parameters
from meshwright.executor.layer.streams import Streams
from meshwright.executor.model.part import Part, PartDescription
from meshwright.executor.model.stage import Stage
from meshwright.executor.model.turns import run_beside, turns

Make = Callable[..., Any]
LONGEST_SLEEP_CYCLES = 2_000_000


class HostStreams:
    """Streams of a device that does everything at once."""

    def on(self, _stream: Resource) -> AbstractContextManager[object]:
        return nullcontext()

    def record(self, stream: Resource) -> object:
        return stream

    def wait(self, stream: Resource, event: object) -> None:
        pass

    def share(self, tensor: Tensor) -> None:
        pass


class Watch:
    """Notes the pass of each operator; `before` is called first."""

    def __init__(self, before: Callable[[], None] = lambda: None) -> None:
        self.seen: list[tuple[str, PassKind, int, bool, str]] = []
        self._at: tuple[str, PassKind, int, bool] = ("", PassKind.FORWARD, 0, False)
        self._before = before

    def enter(self, *at: Any, beside: bool = False, **_: object) -> None:  # noqa: ANN401
        title, kind, micro_batch = at[:3]
        self._at = (title, kind, micro_batch, beside)

    def around(self, operator: Operator, run: Callable[[], None]) -> None:
        self._before()
        self.seen.append((*self._at, operator.name))
        run()


def _parts(kinds: str) -> list[Part]:
    """Stand-ins: parts with the same letter are alike, a blank has no joint pass."""

    def make(kind: str) -> SimpleNamespace:
        description = SimpleNamespace(kind=kind, is_like=lambda other: other.kind == kind)
        return SimpleNamespace(joint=None if kind == " " else object(), description=description)

    return cast("list[Part]", [make(kind) for kind in kinds])


def _most_meetings(one: str, other: str) -> int:
    """The longest common subsequence without blanks, by trying all."""
    one, other = one.replace(" ", ""), other.replace(" ", "")
    common = {"".join(chosen) for size in range(len(one) + 1) for chosen in combinations(one, size)} & {
        "".join(chosen) for size in range(len(other) + 1) for chosen in combinations(other, size)
    }
    return max(map(len, common))


@given(st.text("ab ", max_size=6), st.text("ab ", max_size=6))
def test_as_many_parts_as_possible_meet_one_of_their_kind(one: str, other: str) -> None:
    found = turns(_parts(one), _parts(other))
    assert [sum(turn[index] for turn in found) for index in (0, 1)] == [len(one), len(other)]
    assert sum(turn == (True, True) for turn in found) == _most_meetings(one, other)
    assert (False, False) not in found
    left, right = iter(one), iter(other)
    for is_forward, is_backward in found:
        kinds = [next(left) for _ in range(is_forward)] + [next(right) for _ in range(is_backward)]
        assert len(set(kinds)) == 1


def test_ends_run_alone_before_and_behind_the_layers_that_meet() -> None:
    found = turns(_parts("eLL"), _parts("hLL"))
    assert found[2:] == ((True, True), (True, True))
    assert sorted(found[:2]) == [(False, True), (True, False)]


def _mixed(program: LayerProgram, policy: Recompute, draw: random.Random) -> PassOrder:
    """Both passes, each in its order, mixed at random; what is no product runs on random streams.

    Products stay on one: they share copies of what they join (`Values.joined`).
    """
    operators = list(pass_operators(program, policy, PassKind.JOINT))
    forward = [op for op in operators if op.name.startswith(BESIDE)]
    backward = [op for op in operators if not op.name.startswith(BESIDE)]
    mixed = []
    while forward or backward:
        takes_forward = draw.randrange(len(forward) + len(backward)) < len(forward)
        mixed.append((forward if takes_forward else backward).pop(0))
    streams = (Resource.COMPUTE, Resource.NVLINK, Resource.NETWORK)
    return PassOrder(
        launches=tuple(
            Launch(
                operators=(op.name,),
                stream=draw.choice(streams) if isinstance(op.work, MemoryWork) else Resource.COMPUTE,
            )
            for op in mixed
        )
    )


def _stages(
    description: PartDescription, weights: list[dict[str, Tensor]], streams: Streams, watch: Watch
) -> list[Stage]:
    """Two stages of two layers each."""
    return [
        Stage(
            [Part(description, Parameters(own), streams) for own in both],
            is_first=False,
            is_last=False,
            token_weight=1.0,
            routed=lambda *_: None,
            watch=watch,
        )
        for both in (weights[:2], weights[2:])
    ]


def _results(stages: list[Stage], hidden: Tensor, upstream: Tensor, *, beside: bool) -> Iterator[Tensor]:
    """The second stage's backward of micro-batch 0 with the first one's forward of micro-batch 1, and all gradients."""
    first, second = stages
    yield second.forward(0, hidden, None)
    if beside:
        forward, backward = first.forward_pass(1, 2 * hidden, None), second.backward_pass(0, upstream)
        run_beside(forward, backward, turns(first.setting.parts, tuple(reversed(second.setting.parts))))
        output, gradient = forward.result, backward.grad_TH
    else:
        output, gradient = first.forward(1, 2 * hidden, None), second.backward(0, upstream)
    assert gradient is not None
    yield from (output, gradient)
    last = first.backward(1, 3 * upstream)
    assert last is not None
    yield last
    for stage in stages:
        for part in stage.setting.parts:
            yield from (part.runner.parameters.gradients[name] for name in sorted(part.runner.parameters.gradients))


def _compare(tiny: Any, policy: Recompute, streams: Streams, watches: list[Watch], seed: int) -> None:  # noqa: ANN401
    draw = random.Random(seed)
    context = tiny.runner().layer
    weights = [{name: (1 + index / 7) * weight for name, weight in tiny.weights.items()} for index in range(4)]
    found = []
    for watch, beside in zip(watches, (False, True), strict=True):
        order = LayerOrder(joint=_mixed(tiny.program, policy, draw)) if beside else None
        description = PartDescription(
            title="layer", program=tiny.program, context=context, recompute=policy, order=order
        )
        stages = _stages(description, weights, streams, watch)
        found.append([one.cpu() for one in _results(stages, tiny.hidden, tiny.upstream, beside=beside)])
    assert [index for index, (one, other) in enumerate(zip(*found, strict=True)) if not torch.equal(one, other)] == []


@pytest.mark.parametrize("policy", [Recompute.NONE, Recompute.SELECTIVE, Recompute.FULL])
@pytest.mark.parametrize("layer", ["dense", "moe", "moe, latent, shared"])
@pytest.mark.parametrize("seed", range(3))
def test_the_same_numbers(tiny_layer: Make, layer: str, policy: Recompute, seed: int) -> None:
    tiny = tiny_layer(layer).with_setting(strategy=LayerStrategy(recompute=policy))
    watches = [Watch(), Watch()]
    _compare(tiny, policy, Streams(HostStreams()), watches, seed)
    alone, together = (watch.seen for watch in watches)
    assert sorted(one[1:3] + one[4:] for one in alone) == sorted(one[1:3] + one[4:] for one in together)
    assert {one[1:3] for one in together if one[3]} == {(PassKind.FORWARD, 1)}
    kinds = [one[1] for one in together if one[2] == 0 or one[3]][len(tiny.program.forward) * 2 :]
    changes = sum(before is not after for before, after in pairwise(kinds))
    assert changes > 8, "operators of the two take turns"


def test_in_line_it_is_the_order_of_the_launches(tiny_layer: Make) -> None:
    tiny, watch = tiny_layer("dense"), Watch()
    mixed = _mixed(tiny.program, Recompute.NONE, random.Random(5))
    in_line = PassOrder(
        launches=tuple(Launch(operators=one.operators, stream=Resource.COMPUTE) for one in mixed.launches)
    )
    description = PartDescription(
        title="layer",
        program=tiny.program,
        context=tiny.runner().layer,
        recompute=Recompute.NONE,
        order=LayerOrder(joint=in_line),
    )
    parts = [Part(description, Parameters(tiny.weights)) for _ in range(2)]
    first, second = (
        Stage([part], is_first=False, is_last=False, token_weight=1.0, routed=lambda *_: None, watch=watch)
        for part in parts
    )
    second.forward(0, tiny.hidden, None)
    watch.seen.clear()
    run_beside(first.forward_pass(1, tiny.hidden, None), second.backward_pass(0, tiny.upstream), ((True, True),))
    assert [BESIDE + one[-1] if one[3] else one[-1] for one in watch.seen] == list(in_line.names())


def test_a_layer_of_the_forward_that_meets_none_is_beside_the_backward_all_the_same(tiny_layer: Make) -> None:
    tiny, watch = tiny_layer("dense"), Watch()
    description = PartDescription(
        title="layer", program=tiny.program, context=tiny.runner().layer, recompute=Recompute.NONE, order=None
    )
    first, second = (
        Stage(
            [Part(description, Parameters(tiny.weights))],
            is_first=False,
            is_last=False,
            token_weight=1.0,
            routed=lambda *_: None,
            watch=watch,
        )
        for _ in range(2)
    )
    second.forward(0, tiny.hidden, None)
    watch.seen.clear()
    forward, backward = first.forward_pass(1, tiny.hidden, None), second.backward_pass(0, tiny.upstream)
    run_beside(forward, backward, turns(forward.parts, backward.parts))
    assert {one[:4] for one in watch.seen} == {
        ("layer", PassKind.FORWARD, 1, True),
        ("layer", PassKind.BACKWARD, 0, False),
    }


@pytest.mark.gpu
@pytest.mark.parametrize("layer", ["dense", "moe", "moe, latent, shared"])
def test_on_a_gpu_streams_change_nothing(tiny_layer: Make, layer: str) -> None:
    """Streams sleep at random: what ran in a wrong order, or in memory reused too early, would differ."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    device, draw = torch.device("cuda", 0), random.Random(2)

    def sleep() -> None:
        if draw.random() < 0.3:
            torch.cuda._sleep(draw.randrange(LONGEST_SLEEP_CYCLES))

    tiny = tiny_layer(layer).on(device, torch.float32)
    for seed in range(8):
        _compare(tiny, Recompute.NONE, Streams(CudaStreams(device)), [Watch(), Watch(sleep)], seed)
