"""Why nothing fits: the attempt that came nearest, the limit it breaks, and the smallest change that would help."""

from __future__ import annotations

from enum import IntEnum

from meshwright.costmodel.data_parallel import Sharding
from meshwright.costmodel.errors import InfeasibleError
from meshwright.costmodel.strategy import Mesh
from meshwright.costmodel.units import format_bytes
from meshwright.planner.fixes import Fixes, OffloadChoice
from meshwright.planner.point import MemoryShortfall, TooFewLayers
from meshwright.planner.space import OuterPoint, Problem


class Counted(IntEnum):
    """What was counted of an attempt that does not fit; the more, the nearer it came."""

    STATE = 0
    ONE_MICRO_BATCH = 1
    ALL = 2


class Shortfalls:
    """Collects what rejected candidates lacked; keeps the one that lacked least."""

    def __init__(self, problem: Problem, limit_bytes: float) -> None:
        self.problem = problem
        self.limit_bytes = limit_bytes
        self.num_noted = 0
        self._least: dict[Counted, tuple[float, str]] = {}

    def note_state(self, mesh: Mesh, sharding: Sharding, needed_bytes: float) -> None:
        """A candidate whose model state alone does not fit."""
        what = f"model state alone (parameters, gradients, optimizer; ZeRO-{sharding.stage})"
        self._note(needed_bytes, f"{what} on {_mesh_text(mesh)}", Counted.STATE)

    def note_activations(self, mesh: Mesh, sharding: Sharding, needed_bytes: float) -> None:
        """A candidate that has no room for one micro-batch beside its state, recomputing everything."""
        what = f"the least of one micro-batch (layer inputs and state, or the head; ZeRO-{sharding.stage})"
        self._note(needed_bytes, f"{what} on {_mesh_text(mesh)}", Counted.ONE_MICRO_BATCH)

    def note(self, point: OuterPoint, reason: MemoryShortfall | TooFewLayers | None) -> None:
        """A candidate that the inner solver proved infeasible."""
        if isinstance(reason, MemoryShortfall):
            text = f"pipeline stage {reason.device} of {_mesh_text(point.mesh)}, ZeRO-{point.sharding.stage}"
            self._note(reason.needed_bytes, text, Counted.ALL)
        else:
            self.num_noted += 1

    def _note(self, needed_bytes: float, text: str, counted: Counted) -> None:
        self.num_noted += 1
        if counted not in self._least or needed_bytes < self._least[counted][0]:
            self._least[counted] = (needed_bytes, text)

    def error(self, enough_gpus: int | None) -> InfeasibleError:
        """The message for the user. `enough_gpus`: a number of GPUs on which a plan was found, if any."""
        if not self._least:
            return InfeasibleError(self._nothing_legal())
        needed_bytes, text = self._least[max(self._least)]
        over_bytes = needed_bytes - self.limit_bytes
        return InfeasibleError(
            f"no plan fits: the best attempt needs {format_bytes(needed_bytes)} a GPU for {text},"
            f" {format_bytes(over_bytes)} over the limit of {format_bytes(self.limit_bytes)};"
            f" {self._way_out(enough_gpus)}"
        )

    def _nothing_legal(self) -> str:
        workload, cluster = self.problem.workload, self.problem.cluster
        return (
            f"no legal combination of degrees for {cluster.num_gpus} GPUs and a global batch of"
            f" {workload.global_batch} sequences: tp x sp x cp x pp x dp must equal the GPUs, dp x micro-batch must"
            f" divide the global batch{self._or_host()}; change the batch or the number of GPUs, or free a pinned"
            " choice"
        )

    def _or_host(self) -> str:
        """The other reason that there may be where something must wait in host memory."""
        pinned = self.problem.fixes.offload
        if pinned in (None, OffloadChoice.NONE):
            return ""
        host = format_bytes(self.problem.cluster.host_memory_bytes)
        return f", and a part of the {host} of a node's host must hold what offload={pinned} puts there"

    def _way_out(self, enough_gpus: int | None) -> str:
        pinned = self.problem.fixes != Fixes()
        free = "; freeing pinned choices may do, too" if pinned else ""
        if enough_gpus is not None:
            return f"a plan was found for {enough_gpus} GPUs of this kind{free}"
        return f"GPUs with more memory, shorter sequences or a smaller model are needed{free}"


def _mesh_text(mesh: Mesh) -> str:
    degrees = ((name, getattr(mesh, name)) for name in ("pp", "dp", "tp", "sp", "cp", "ep", "etp"))
    return " ".join(f"{name}{degree}" for name, degree in degrees if degree > 1) or "one GPU"
