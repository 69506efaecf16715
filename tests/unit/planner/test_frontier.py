"""The points that a search opens: what it offers where state is large, and other splits of embedding and head."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from meshwright.costmodel.formulas.memory import memory_limit_bytes
from meshwright.costmodel.presets import load_model
from meshwright.costmodel.runtime import load_runtime
from meshwright.costmodel.workload import Workload
from meshwright.hardware_profiles import load_cluster
from meshwright.planner.fixes import parse_fixes
from meshwright.planner.frontier import Frontier
from meshwright.planner.held.offload import host_optimizer_bytes
from meshwright.planner.point_problem import HOST_OPTIMIZER_FRACTION
from meshwright.planner.search import search
from meshwright.planner.shortfall import Shortfalls
from meshwright.planner.space import OuterPoint, Problem

RUNTIME = load_runtime("meshwright")


def _problem(model: str, cluster: str, gpus: int, seq_len: int, *fixes: str) -> Problem:
    return Problem(
        model=load_model(model),
        cluster=load_cluster(cluster, num_gpus=gpus),
        workload=Workload(global_batch=64, seq_len=seq_len),
        fixes=parse_fixes(fixes),
    )


def _frontier(problem: Problem) -> Frontier:
    limit_bytes = memory_limit_bytes(problem.cluster.gpu.usable_memory_bytes)
    return Frontier(problem, RUNTIME, limit_bytes, Shortfalls(problem, limit_bytes))


def _points(problem: Problem) -> list[OuterPoint]:
    return [point for _, point in _frontier(problem).points()]


def test_offload_of_the_optimizer_is_offered_where_its_state_on_the_gpus_is_large() -> None:
    """39.1 billion parameters over tp 8: 6 bytes of weights and gradients and 12 of optimizer each, 88 GB a GPU."""
    large = _problem("gpt-39.1b", "h100", 8, 2048, "tp=8", "pp=1")
    assert {point.sharding.offload_optimizer for point in _points(large)} == {True}
    small = _problem("gpt-39.1b", "h100", 32, 2048, "tp=8", "pp=4")
    assert {point.sharding.offload_optimizer for point in _points(small)} == {False}


@pytest.mark.parametrize("model", ["nanotron-80b", "llama-2-70b"])
def test_no_point_has_more_in_host_memory_than_its_share(model: str) -> None:
    """12 bytes of each of the 70 or 80 billion parameters are 840 or 960 GB; half of a host has 500."""
    problem = _problem(model, "a100", 8, 4096)
    assert not any(point.sharding.offload_optimizer for point in _points(problem))


def test_a_plan_keeps_to_the_share_of_host_memory_on_its_fullest_node() -> None:
    problem = _problem("gpt-39.1b", "h100", 8, 2048, "tp=8", "pp=1")
    found = search(problem, top=0).configuration
    assert found.sharding.offload_optimizer
    # All parameters but the sliced vocabulary's and the norms' lie once on the node.
    assert host_optimizer_bytes(found) == pytest.approx(12 * 39.1e9, rel=0.01)
    assert host_optimizer_bytes(found) <= HOST_OPTIMIZER_FRACTION * problem.cluster.host_memory_bytes


def _splits(points: Iterable[OuterPoint]) -> set[tuple[int, int]]:
    return {(point.mesh.tp, point.mesh.sp) for point in points}


def test_a_point_that_does_not_fit_comes_back_with_other_splits_of_embedding_and_head() -> None:
    """Under ZeRO-3 a GPU holds an eighth of embedding and head however they are split."""
    frontier = _frontier(_problem("mixtral-8x7b", "h100", 8, 4096, "ep=8", "pp=1", "dp=1", "zero=3"))
    opened = [point for _, point in frontier.points()]
    assert _splits(opened) == {(1, 8)}
    again = [entry for point in opened for entry in frontier.resplit(point)]
    assert _splits(other for _, other in again) == {(8, 1)}
    assert len(again) == len(opened)
    assert all(bound_s > 0.0 for bound_s, _ in again)
    assert [other for _, point in again for other in frontier.resplit(point)] == [], "each is offered once"


def test_another_split_of_embedding_and_head_is_opened_at_once_where_it_saves_much() -> None:
    """Twice 32,000 x 4,096 parameters of 6 bytes (and optimizer): 1.6 GB on every GPU, or an eighth of that."""
    frontier = _frontier(_problem("mixtral-8x7b", "h100", 8, 4096, "ep=8", "pp=1", "dp=1", "zero=1"))
    opened = [point for _, point in frontier.points()]
    assert _splits(opened) == {(1, 8), (8, 1)}
    assert [other for point in opened for other in frontier.resplit(point)] == []
