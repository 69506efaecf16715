"""Whether the global batch can be shared among replicas and micro-batches, and which batches near it could."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import msgspec

from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.strategy import Mesh
from meshwright.planner.space import MAX_MICRO_BATCH, LayerShape, Problem, layer_shapes, meshes, pipelines

Share: TypeAlias = tuple[int, int, int]
MAX_TRIED = 48
MAX_STEPS = 2
MAX_LISTED = 8


def legal_meshes(problem: Problem) -> Iterator[tuple[LayerShape, Mesh]]:
    """Every shape and mesh of the space for which there is a schedule, whatever its memory."""
    for shape in layer_shapes(problem):
        for mesh, num_micro_batches in meshes(problem, shape):
            if next(pipelines(problem, mesh, num_micro_batches), None) is not None:
                yield shape, mesh


def has_legal_mesh(problem: Problem) -> bool:
    """Whether anything is left to search."""
    return next(legal_meshes(problem), None) is not None


def check_batch(problem: Problem) -> None:
    """Raises `StrategyError` where another global batch could be planned but this one cannot."""
    if has_legal_mesh(problem):
        return
    shares = _legal_shares(problem)
    if not shares:
        return
    fixes, batch = problem.fixes, problem.workload.global_batch
    pinned = "".join(f", {name}={getattr(fixes, name)}" for name in ("dp", "mbs", "pp") if getattr(fixes, name))
    degrees = sorted({dp for dp, _, _ in shares})
    listed = ", ".join(map(str, degrees[:MAX_LISTED])) + (", ..." if len(degrees) > MAX_LISTED else "")
    nearest = " or ".join(map(str, _nearest_batches(problem, shares)))
    raise StrategyError(
        "--global-batch",
        "",
        f"{batch} sequences cannot be shared by any legal dp x micro-batch on {problem.cluster.num_gpus} GPUs{pinned};"
        f" dp can be {listed}" + (f"; the nearest batch is {nearest}" if nearest else ""),
    )


def _with_batch(problem: Problem, global_batch: int) -> Problem:
    workload = msgspec.structs.replace(problem.workload, global_batch=global_batch)
    return msgspec.structs.replace(problem, workload=workload)


def _legal_shares(problem: Problem) -> frozenset[Share]:
    """Every (dp, micro-batch, pp) that the space has for a large batch that all of them divide."""
    divisible = problem.cluster.num_gpus * MAX_MICRO_BATCH * (problem.fixes.mbs or 1)
    large = _with_batch(problem, divisible)
    return frozenset((mesh.dp, shape.micro_batch, mesh.pp) for shape, mesh in legal_meshes(large))


def _nearest_batches(problem: Problem, shares: frozenset[Share]) -> tuple[int, ...]:
    """The nearest batches below and above that can be planned.

    Tried are multiples of a legal dp x micro-batch, above also those that give each of pp stages a micro-batch.
    """
    batch, products = problem.workload.global_batch, {dp * micro_batch for dp, micro_batch, _ in shares}
    below = {(batch // product - step) * product for product in products for step in range(MAX_TRIED)}
    above = {(batch // product + 1 + step) * product for product in products for step in range(MAX_STEPS)}
    filled = {rounds * dp * micro_batch * pp for dp, micro_batch, pp in shares for rounds in (1, 2)}
    tries = (
        sorted((near for near in below if near > 0), reverse=True),
        sorted(near for near in above | filled if near > batch),
    )
    found = (_first_legal(problem, batches[:MAX_TRIED]) for batches in tries)
    return tuple(near for near in found if near)


def _first_legal(problem: Problem, batches: list[int]) -> int | None:
    return next((batch for batch in batches if has_legal_mesh(_with_batch(problem, batch))), None)
