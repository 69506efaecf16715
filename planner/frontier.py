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
from meshwright.planner.shape_bounds import ShapeBound, shape_bounds
from meshwright.planner.shortfall import Shortfalls
from meshwright.planner.space import (
    LARGE_END_FRACTION,
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
        self._bounds: dict[LayerShape, tuple[ShapeBound, ...]] = {}

    def points(self) -> Iterator[tuple[float, OuterPoint]]:
        """(lower bound in seconds, point) of every point whose model state and one micro-batch may fit.

        Embedding and head are split as the fastest strategy of the first layer is; another way, too, where that saves
        much, and instead, where only that may fit.
        """
        for shape in layer_shapes(self.problem):
            self._bounds[shape] = shape_bounds(self.problem, self.runtime, shape)
            if self._bounds[shape]:
                yield from self._points(shape)

    def resplit(self, point: OuterPoint) -> Iterator[tuple[float, OuterPoint]]:
        """A point that turned out not to fit, with embedding and head split in the other ways not seen so far."""
        first, *others = self._bounds[point.shape]
        if (point.mesh.tp, point.mesh.sp) != first.split:
            return
        for bound in others:
            mesh = _with_ends(point.mesh, bound)
            state = self._state(mesh, point.sharding)
            if self._may_fit(bound, state) and not self._saves_much(bound, first, state):
                other = msgspec.structs.replace(point, mesh=mesh)
                yield self._step_bound_s(bound, other), other

    def _points(self, shape: LayerShape) -> Iterator[tuple[float, OuterPoint]]:
        first, *others = self._bounds[shape]
        for plain_mesh, num_micro_batches in meshes(self.problem, shape):
            split_mesh = _with_ends(plain_mesh, first)
            for order, sharding in product(orders(self.problem, split_mesh), shardings(self.problem, split_mesh)):
                mesh = msgspec.structs.replace(split_mesh, order=order)
                state = self._state(mesh, sharding)
                if sharding.offload_optimizer and not self._state_is_large(first, state):
                    continue
                pipes = list(pipelines(self.problem, mesh, num_micro_batches))
                fits = self._may_fit(first, state)
                others_tried = [bound for bound in others if not fits or self._saves_much(bound, first, state)]
                chosen = [*([first] if fits else []), *(bound for bound in others_tried if self._may_fit(bound, state))]
                self.num_rejected += len(pipes) * (1 + len(others_tried) - len(chosen))
                for bound, (kind, virtual_stages) in product(chosen, pipes):
                    point = OuterPoint(
                        shape=shape,
                        mesh=_with_ends(mesh, bound),
                        schedule=kind,
                        virtual_stages=virtual_stages,
                        sharding=sharding,
                        num_micro_batches=num_micro_batches,
                    )
                    yield self._step_bound_s(bound, point), point

    def _state(self, mesh: Mesh, sharding: Sharding) -> StateModel:
        return StateModel(cluster=self.problem.cluster, mesh=mesh, sharding=sharding, runtime=self.runtime)

    def _step_bound_s(self, bound: ShapeBound, point: OuterPoint) -> float:
        problem, mesh = self.problem, point.mesh
        state = self._state(mesh, point.sharding)
        split = _split(problem, mesh.pp, point.virtual_stages)
        pipe = Pipe(
            kind=point.schedule,
            num_stages=mesh.pp,
            num_micro_batches=point.num_micro_batches,
            virtual_stages=point.virtual_stages,
            boundaries=known_boundaries(mesh.pp, split, problem.model.num_layers),
            ends=bound.ends,
        )
        return step_bound_s(bound.with_state(problem.model, state), pipe)

    def _saves_much(self, bound: ShapeBound, first: ShapeBound, state: StateModel) -> bool:
        """Whether embedding and head, split another way than the fastest, take so much less that it may matter."""
        return first.end_bytes(state) - bound.end_bytes(state) > LARGE_END_FRACTION * self.limit_bytes

    def _may_fit(self, bound: ShapeBound, state: StateModel) -> bool:
        needed = bound.static_bytes(state)
        if state.sharding.offload_optimizer and not self._host_holds(bound, state, needed):
            return False
        if needed > self.limit_bytes:
            self.shortfalls.note_state(state.mesh, state.sharding, needed)
            return False
        with_activations = bound.least_bytes(state.mesh, needed)
        if with_activations > self.limit_bytes:
            self.shortfalls.note_activations(state.mesh, state.sharding, with_activations)
            return False
        return True

    def _state_is_large(self, bound: ShapeBound, state: StateModel) -> bool:
        """Whether model state with its optimizer on the GPU would take enough of it for offload to be looked at.

        Always where it is pinned.
        """
        if self.problem.fixes.offload is OffloadChoice.OPTIMIZER:
            return True
        return bound.static_bytes(_on_gpu(state)) > LARGE_STATE_FRACTION * self.limit_bytes

    def _host_holds(self, bound: ShapeBound, state: StateModel, on_gpu_bytes: float) -> bool:
        """Whether a node's memory holds the optimizer state of its GPUs, were all stages alike."""
        cluster = self.problem.cluster
        each_bytes = bound.static_bytes(_on_gpu(state)) - on_gpu_bytes
        on_node = min(cluster.num_gpus, cluster.gpus_per_node) * each_bytes
        return on_node <= HOST_OPTIMIZER_FRACTION * cluster.host_memory_bytes


def _on_gpu(state: StateModel) -> StateModel:
    sharding = msgspec.structs.replace(state.sharding, offload_optimizer=False)
    return msgspec.structs.replace(state, sharding=sharding)


def _with_ends(mesh: Mesh, bound: ShapeBound) -> Mesh:
    """The mesh with embedding and head split as the bound says: no layer's strategy depends on it."""
    tp, sp = bound.split
    return msgspec.structs.replace(mesh, tp=tp, sp=sp)


def _split(problem: Problem, pp: int, virtual_stages: int) -> tuple[int, ...]:
    return even_split(problem, pp, virtual_stages) if virtual_stages > 1 else ()
