"""The outer points of a search, each with a lower bound, before any of its layers' choices is costed in full."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import msgspec

from meshwright.costmodel.data_parallel import Sharding, StateModel
from meshwright.costmodel.runtime import RuntimeSpec
from meshwright.costmodel.strategy import Mesh
from meshwright.planner.bounds import Pipe, known_boundaries, step_bound_s
from meshwright.planner.fixes import OffloadChoice
from meshwright.planner.point_problem import HOST_OPTIMIZER_FRACTION
from meshwright.planner.shape_bounds import ShapeBound, shape_bound
from meshwright.planner.shortfall import Shortfalls
from meshwright.planner.space import (
    LARGE_STATE_FRACTION,
    LayerShape,
    OuterPoint,
    Problem,
    even_split,
    layer_shapes,
    meshes,
    orders,
    pipelines,
    shardings,
)


class Frontier:
    """Opens the space: shapes, their meshes, rank orders, shardings and pipelines; drops what cannot hold its state
    and the least of one micro-batch.
    """

    def __init__(self, problem: Problem, runtime: RuntimeSpec, limit_bytes: float, shortfalls: Shortfalls) -> None:
        self.problem, self.runtime = problem, runtime
        self.limit_bytes, self.shortfalls = limit_bytes, shortfalls
        self.num_rejected = 0

    def points(self) -> Iterator[tuple[float, OuterPoint]]:
        """(lower bound in seconds, point) of every point whose model state and one micro-batch may fit."""
        for shape in layer_shapes(self.problem):
            bound = shape_bound(self.problem, self.runtime, shape)
            if bound is not None:
                yield from self._points(bound, shape)

    def _points(self, bound: ShapeBound, shape: LayerShape) -> Iterator[tuple[float, OuterPoint]]:
        model, num_layers = self.problem.model, self.problem.model.num_layers
        for plain_mesh, num_micro_batches in meshes(self.problem, shape):
            split_mesh = msgspec.structs.replace(plain_mesh, tp=bound.split[0], sp=bound.split[1])
            for order, sharding in product(orders(self.problem, split_mesh), shardings(self.problem, split_mesh)):
                mesh = msgspec.structs.replace(split_mesh, order=order)
                if sharding.offload_optimizer and not self._state_is_large(bound, mesh, sharding):
                    continue
                pipes = list(pipelines(self.problem, mesh, num_micro_batches))
                if not self._may_fit(bound, mesh, sharding):
                    self.num_rejected += len(pipes)
                    continue
                state = StateModel(cluster=self.problem.cluster, mesh=mesh, sharding=sharding, runtime=self.runtime)
                layers = bound.with_state(model, state)
                for kind, virtual_stages in pipes:
                    pipe = Pipe(
                        kind=kind,
                        num_stages=mesh.pp,
                        num_micro_batches=num_micro_batches,
                        virtual_stages=virtual_stages,
                        boundaries=known_boundaries(mesh.pp, _split(self.problem, mesh.pp, virtual_stages), num_layers),
                        ends=bound.ends,
                    )
                    yield (
                        step_bound_s(layers, pipe),
                        OuterPoint(
                            shape=shape,
                            mesh=mesh,
                            schedule=kind,
                            virtual_stages=virtual_stages,
                            sharding=sharding,
                            num_micro_batches=num_micro_batches,
                        ),
                    )

    def _may_fit(self, bound: ShapeBound, mesh: Mesh, sharding: Sharding) -> bool:
        needed = bound.static_bytes(mesh, sharding, self.runtime)
        if sharding.offload_optimizer and not self._host_holds(bound, mesh, sharding):
            return False
        if needed > self.limit_bytes:
            self.shortfalls.note_state(mesh, sharding, needed)
            return False
        with_activations = bound.least_bytes(mesh, needed)
        if with_activations > self.limit_bytes:
            self.shortfalls.note_activations(mesh, sharding, with_activations)
            return False
        return True

    def _state_is_large(self, bound: ShapeBound, mesh: Mesh, sharding: Sharding) -> bool:
        """Whether model state with its optimizer on the GPU would take enough of it for offload to be looked at.

        Always where it is pinned.
        """
        if self.problem.fixes.offload is OffloadChoice.OPTIMIZER:
            return True
        on_gpu = msgspec.structs.replace(sharding, offload_optimizer=False)
        needed = bound.static_bytes(mesh, on_gpu, self.runtime)
        return needed > LARGE_STATE_FRACTION * self.limit_bytes

    def _host_holds(self, bound: ShapeBound, mesh: Mesh, sharding: Sharding) -> bool:
        """Whether a node's memory holds the optimizer state of its GPUs."""
        cluster = self.problem.cluster
        on_node = min(cluster.num_gpus, cluster.gpus_per_node) * bound.optimizer_bytes(
            mesh, sharding.stage, self.runtime
        )
        return on_node <= HOST_OPTIMIZER_FRACTION * cluster.host_memory_bytes


def _split(problem: Problem, pp: int, virtual_stages: int) -> tuple[int, ...]:
    return even_split(problem, pp, virtual_stages) if virtual_stages > 1 else ()
