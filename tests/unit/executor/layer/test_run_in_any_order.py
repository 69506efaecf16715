"""Operators may run in any order that respects what they read: results stay the same."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshwright.costmodel.layer_passes import pass_operators
from meshwright.costmodel.order.launch_order import PassKind
from meshwright.costmodel.pass_times import problem_of
from meshwright.costmodel.program.operators import Operator
from meshwright.costmodel.program.program import LayerProgram
from meshwright.costmodel.runtime import load_runtime
from meshwright.costmodel.strategy import Recompute
from meshwright.executor.layer.order import in_order
from meshwright.hardware_profiles import load_cluster
from meshwright.planner.operator_order import solve_pass

Make = Callable[..., Any]
KINDS = ("dense", "dense, norms of heads", "dense, latent", "moe", "moe, gated shared", "moe, latent, shared")


def _random_order(program: LayerProgram, seed: int) -> list[Operator]:
    """A topological order of both passes, drawn at random: wgrads late, forwards of branches interleaved."""
    graph, draw = program.graph(), random.Random(seed)
    waiting = {name: graph.in_degree(name) for name in graph}
    ready = [name for name, count in waiting.items() if count == 0]
    order = []
    while ready:
        name = ready.pop(draw.randrange(len(ready)))
        order.append(graph.nodes[name]["operator"])
        for after in graph.successors(name):
            waiting[after] -= 1
            if waiting[after] == 0:
                ready.append(after)
    return order


@pytest.mark.parametrize("layer", KINDS)
@given(seed=st.integers(0, 2**32))
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_topological_order(tiny_layer: Make, layer: str, seed: int) -> None:
    tiny = tiny_layer(layer)
    results = tiny.run(lambda program: _random_order(program, seed))
    results.assert_close(tiny.run(), 1e-13)


@pytest.mark.parametrize("layer", KINDS)
def test_the_order_of_the_solver(tiny_layer: Make, layer: str) -> None:
    cluster, runtime = load_cluster("h100", num_gpus=8), load_runtime("meshwright")

    def solved(program: LayerProgram) -> list[Operator]:
        found: list[Operator] = []
        for kind in (PassKind.FORWARD, PassKind.BACKWARD):
            operators = pass_operators(program, Recompute.NONE, kind)
            order = solve_pass(problem_of(operators, cluster, runtime)).ordered.order()
            found.extend(in_order(operators, order))
        return found

    tiny = tiny_layer(layer)
    tiny.run(solved).assert_close(tiny.run(), 1e-13)
