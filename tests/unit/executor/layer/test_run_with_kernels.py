"""A layer of experts runs through the kernels: what ran is recorded; on a GPU results are those of the references."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from meshwright.costmodel.program.operators import Operator
from meshwright.costmodel.program.recompute import plan_backward
from meshwright.costmodel.strategy import LayerStrategy, Recompute
from meshwright.executor.layer.bindings.router import ROUTING
from meshwright.executor.layer.routing import WEIGHTS
from meshwright.kernels.dispatch import Choice, Implementation, dispatcher

Make = Callable[..., Any]
OPERATIONS = (
    "index",
    "permute",
    "permute_backward",
    "route",
    "route_backward",
    "swiglu",
    "swiglu_backward",
    "unpermute",
    "unpermute_backward",
)
CUDA = torch.device("cuda", 0)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def _calls() -> Counter[tuple[str, Implementation]]:
    calls: Counter[tuple[str, Implementation]] = Counter()
    for choice in dispatcher().record():
        calls[(choice.operation, choice.implementation)] += choice.calls
    return calls


def _ran_since(before: Counter[tuple[str, Implementation]]) -> set[tuple[str, Implementation]]:
    return {key for key, calls in _calls().items() if calls > before[key]}


def test_what_ran_is_recorded(tiny_layer: Make) -> None:
    before = _calls()
    tiny_layer("moe, shared").run()
    assert _ran_since(before) == {(name, Implementation.REFERENCE) for name in OPERATIONS}
    assert all(isinstance(choice, Choice) and choice.reason for choice in dispatcher().record())


def test_recomputation_replays_the_routing(tiny_layer: Make) -> None:
    tiny = tiny_layer("moe").with_setting(strategy=LayerStrategy(recompute=Recompute.FULL))
    assert ROUTING not in plan_backward(tiny.program, Recompute.FULL).kept
    runner = tiny.runner()
    batch = runner.start(tiny.hidden)
    batch.run(runner.forward)
    weights = batch.scope.values.rider(ROUTING, WEIGHTS, torch.Tensor)
    tiny.weights["router"].zero_()  # whatever the router would say now
    batch.put_output_gradient(tiny.upstream)
    seen = []

    def note(_: object, run: Callable[[], None]) -> None:
        run()
        if ROUTING in batch.scope.values:
            seen.append(batch.scope.values[ROUTING])

    batch.run(runner.backward, around=note)
    assert seen
    assert all(routing is weights for routing in seen)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("gate_before_fc2", [True, False])
@pytest.mark.parametrize("layer", ["moe", "moe, sigmoid", "moe, groups", "moe, biases", "moe, gated shared"])
def test_cuda_kernels_run_a_layer(tiny_layer: Make, layer: str, gate_before_fc2: bool) -> None:
    tiny = tiny_layer(layer).with_setting(gate_before_fc2=gate_before_fc2)
    before = _calls()
    found = tiny.on(CUDA, torch.float32).run()
    assert _ran_since(before) == {(name, Implementation.CUDA) for name in OPERATIONS}
    found.on_cpu().assert_close(tiny.run(), 1e-4)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype:UserWarning")
@needs_cuda
def test_nothing_waits_between_router_and_combine(tiny_layer: Make) -> None:
    tiny = tiny_layer("moe, wide").on(CUDA, torch.bfloat16)
    tiny.run()  # loads the library
    runner = tiny.runner()
    router, *_, combined = _part(runner.forward, "topk", "unpermute")
    batch = runner.start(tiny.hidden)
    batch.run(runner.forward[: runner.forward.index(router)])
    with _no_waits():
        batch.run(_part(runner.forward, "topk", "unpermute"))
    batch.run(runner.forward[runner.forward.index(combined) + 1 :])
    batch.put_output_gradient(tiny.upstream)
    with _no_waits():
        batch.run(_part(runner.backward, "unpermute.backward", "topk.backward"))


def _part(operators: Sequence[Operator], first: str, last: str) -> Sequence[Operator]:
    names = [operator.name for operator in operators]
    return operators[names.index(first) : names.index(last) + 1]


@contextmanager
def _no_waits() -> Iterator[None]:
    """Inside, whatever waits for the device is an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
