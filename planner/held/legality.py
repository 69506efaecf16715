"""Whether a changed configuration can be run: what must divide what, with the values and the rule."""

from __future__ import annotations

from itertools import chain

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.model import DenseFfnSpec, LayerSpec
from meshwright.costmodel.simulate import check_combination
from meshwright.costmodel.strategy import LayerStrategy, Mesh
from meshwright.planner.held.offload import check_host_memory

NO_EXPERTS = "has no experts: it is a dense model"


def check_legal(configuration: TrainingConfiguration) -> None:
    """Raises `StrategyError` for the first rule that is broken; says nothing of GPU memory, which is an answer."""
    pipeline, mesh = configuration.pipeline, configuration.mesh
    _check_sequence(configuration)
    _check_experts(configuration)
    layers = zip(configuration.model.layers, chain.from_iterable(configuration.stages), strict=True)
    for layer, strategy in dict.fromkeys(layers):
        _check_degrees(layer, strategy, mesh)
        _check_heads(layer, strategy)
        _check_widths(layer, strategy)
    check_combination(pipeline.schedule, mesh.pp, configuration.num_micro_batches, pipeline.virtual_stages)
    check_host_memory(configuration)


def _check_sequence(configuration: TrainingConfiguration) -> None:
    seq_len, mesh = configuration.workload.seq_len, configuration.mesh
    learned = configuration.model.learned_positions
    if learned and seq_len > learned:
        raise StrategyError("workload", "seq_len", f"{seq_len}, but the model has {learned} learned positions")
    shares = mesh.replica_gpus * (2 if mesh.cp > 1 else 1)
    if seq_len % shares:
        factors = "2 x cp x sp x tp" if mesh.cp > 1 else "sp x tp"
        raise StrategyError("workload", "seq_len", f"{seq_len} is not a multiple of {factors} = {shares}")


def _check_experts(configuration: TrainingConfiguration) -> None:
    """A load or a capacity of experts would change nothing in a dense model."""
    model, workload = configuration.model, configuration.workload
    if not model.is_moe and not workload.routes_evenly:
        name = "capacity_factor" if workload.known_load is None else "expert_load"
        raise StrategyError("workload", name, f"{model.name} {NO_EXPERTS}")


def _check_degrees(layer: LayerSpec, strategy: LayerStrategy, mesh: Mesh) -> None:
    """Ranks that share a micro-batch and experts are those of the mesh."""
    if strategy.replica_gpus != mesh.replica_gpus:
        raise StrategyError(
            "layers",
            "tp",
            f"tp {strategy.tp} x sp {strategy.sp} x cp {strategy.cp} = {strategy.replica_gpus} GPUs share a layer, but"
            f" the mesh has tp x sp x cp = {mesh.replica_gpus}",
        )
    if layer.is_moe and (strategy.ep, strategy.etp) != (mesh.ep, mesh.etp):
        raise StrategyError(
            "layers",
            "ep",
            f"ep {strategy.ep}, etp {strategy.etp}, but the mesh has ep {mesh.ep}, etp {mesh.etp}",
        )


def _check_heads(layer: LayerSpec, strategy: LayerStrategy) -> None:
    heads, kv_heads = layer.attention.num_heads, layer.attention.num_kv_heads
    group = strategy.tp * strategy.sp
    if heads % group:
        raise StrategyError("layers", "tp", f"{heads} heads are not a multiple of tp x sp = {group}")
    if kv_heads % group and group % kv_heads:
        raise StrategyError(
            "layers", "tp", f"tp x sp = {group} ranks can neither split nor copy {kv_heads} key-value heads evenly"
        )


def _check_widths(layer: LayerSpec, strategy: LayerStrategy) -> None:
    ffn = layer.ffn
    if isinstance(ffn, DenseFfnSpec):
        _check_divides("ffn_tp", strategy.ffn_tp, ffn.intermediate, "columns of the FFN")
        return
    _check_divides("ep", strategy.ep, ffn.num_experts, "experts")
    _check_divides("etp", strategy.etp, ffn.intermediate, "columns of an expert")
    _check_divides("ffn_tp", strategy.ffn_tp, ffn.shared_intermediate, "columns of the shared experts")


def _check_divides(axis: str, degree: int, whole: int, words: str) -> None:
    if whole % degree:
        raise StrategyError("layers", axis, f"{axis} {degree} does not divide {whole} {words}")
