"""What the executor does not run yet: each refusal names the field of the plan that asks for it.

A strategy whose equality with one process is not tested is refused.
"""

from __future__ import annotations

from collections.abc import Iterator

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.errors import InputError, PlanError
from meshwright.costmodel.model import LayerSpec
from meshwright.costmodel.runtime_limits import parts_of_model
from meshwright.costmodel.stage_cost import cost_context
from meshwright.costmodel.strategy import LayerStrategy, Mesh
from meshwright.costmodel.value import Value
from meshwright.executor.layer.context import check_supported


class Refusal(Value, frozen=True, kw_only=True):
    """A field of the plan, what it asks for, and the choice to pin instead; empty if none helps."""

    field: str
    what: str
    instead: str = ""

    def __str__(self) -> str:
        hint = f"; plan again with --fix {self.instead}" if self.instead else ""
        return f"the executor does not run {self.what} yet{hint}"


def check_runs(configuration: TrainingConfiguration, where: str = "plan") -> None:
    """Raise `PlanError` for the first thing that the executor does not run."""
    for refusal in _of_model(configuration):
        raise PlanError(where, refusal.field, str(refusal))
    context = cost_context(configuration)
    strategies = (strategy for stage in configuration.stages for strategy in stage)
    for index, (layer, strategy) in enumerate(zip(configuration.model.layers, strategies, strict=True)):
        for refusal in _of_layer(layer, strategy, configuration.mesh):
            raise PlanError(where, f"layer {index}: {refusal.field}", str(refusal))
        try:
            check_supported(layer, context.setting(layer, strategy))
        except InputError as error:
            raise PlanError(where, f"layer {index}: {error.field}", error.problem) from error


def _of_model(configuration: TrainingConfiguration) -> Iterator[Refusal]:
    model, mesh = configuration.model, configuration.mesh
    for name, what in parts_of_model(model).items():
        yield Refusal(field=f"model.{name}", what=what)
    parts = mesh.replica_gpus * (2 if mesh.cp > 1 else 1)
    if configuration.workload.seq_len % parts:
        what = f"sequences of {configuration.workload.seq_len} tokens in {parts} equal parts"
        yield Refusal(field="workload.seq_len", what=what)


def _of_layer(layer: LayerSpec, strategy: LayerStrategy, mesh: Mesh) -> Iterator[Refusal]:
    attention = layer.attention
    if (strategy.tp * strategy.sp, strategy.cp) != (mesh.tp * mesh.sp, mesh.cp):
        what = (
            f"layers of tp {strategy.tp} x sp {strategy.sp} and cp {strategy.cp} in a mesh of tp {mesh.tp} x sp"
            f" {mesh.sp} and cp {mesh.cp}"
        )
        yield Refusal(field="tp", what=what)
    if strategy.tp > 1 and not strategy.sequence_parallel:
        yield Refusal(field="sequence_parallel", what="tensor parallelism without sequence parallelism")
    if attention.num_kv_heads % strategy.tp and strategy.tp % attention.num_kv_heads:
        what = f"{attention.num_kv_heads} key heads over tp {strategy.tp}"
        yield Refusal(field="tp", what=what, instead=f"tp={attention.num_kv_heads}")
    if attention.num_heads % (strategy.tp * strategy.sp):
        what = f"{attention.num_heads} heads over tp {strategy.tp} x sp {strategy.sp}"
        yield Refusal(field="sp" if strategy.sp > 1 else "tp", what=what)
