"""The choices that `--fix` and `--why-not` name, as a plan has made them."""

from __future__ import annotations

from collections import Counter

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.model import LayerSpec
from meshwright.costmodel.strategy import ContextMethod, LayerStrategy
from meshwright.planner.fixes import AttentionChoice, FfnChoice, Fixes, OffloadChoice, parse_fixes
from meshwright.planner.layer_splits import strategies_of

WHY_NOT = "--why-not"
SPLITS = ("tp", "sp")
"""What layers choose; the mesh has it as embedding and head do."""

AXES = ("tp", "sp", "cp", "pp", "ep", "etp", "dp")


def parse_choices(texts: tuple[str, ...]) -> Fixes:
    """The choices asked about. Raises `StrategyError` that names `--why-not` for what `--fix` would not take."""
    try:
        return parse_fixes(texts)
    except StrategyError as error:
        raise StrategyError(WHY_NOT, error.field, error.problem) from error


def asked(fixes: Fixes) -> dict[str, object]:
    """The choices that are pinned."""
    return {name: value for name in Fixes.__struct_fields__ if (value := getattr(fixes, name)) is not None}


def words(fixes: Fixes) -> str:
    """The choices as they are typed."""
    return " ".join(f"{name}={value}" for name, value in asked(fixes).items())


def made(configuration: TrainingConfiguration, name: str) -> Counter[object]:
    """What a configuration chose under a name; for a choice of layers, how many layers made it which way."""
    if name in SPLITS:
        return Counter(getattr(strategy, name) for strategy in strategies_of(configuration))
    if name in AXES:
        return Counter({getattr(configuration.mesh, name): 1})
    whole = {
        "vp": configuration.pipeline.virtual_stages,
        "mbs": configuration.pipeline.micro_batch,
        "schedule": configuration.pipeline.schedule,
        "zero": configuration.sharding.zero,
    }
    if name in whole:
        return Counter({whole[name]: 1})
    if name == "offload" and configuration.sharding.offload_optimizer:
        return Counter({OffloadChoice.OPTIMIZER: 1})
    layers = zip(configuration.model.layers, strategies_of(configuration), strict=True)
    found = (_of_layer(name, layer, strategy) for layer, strategy in layers)
    return Counter(value for value in found if value is not None)


def is_made(configuration: TrainingConfiguration, fixes: Fixes) -> bool:
    """Whether the configuration has made all of these choices, in every layer that they are about."""
    return all(set(made(configuration, name)) <= {value} for name, value in asked(fixes).items())


def _of_layer(name: str, layer: LayerSpec, strategy: LayerStrategy) -> object:
    if name == "recompute":
        return strategy.recompute
    if name == "attention":
        return attention_choice(strategy)
    if name == "ffn":
        return ffn_choice(layer, strategy)
    if name == "wire":
        return strategy.communication if strategy.tp * strategy.sp * strategy.ep * strategy.etp > 1 else None
    if name == "offload":
        return OffloadChoice.ACTIVATIONS if strategy.offload else OffloadChoice.NONE
    if name == "dispatch":
        return strategy.dispatch if layer.is_moe and strategy.ep * strategy.etp > 1 else None
    raise StrategyError(WHY_NOT, name, "is no choice of a layer")


def attention_choice(strategy: LayerStrategy) -> AttentionChoice:
    """How a layer's attention is shared, as `--fix attention=` names it."""
    if strategy.cp > 1:
        ring = strategy.context_method is ContextMethod.RING
        return AttentionChoice.RING if ring else AttentionChoice.ALL_GATHER
    if strategy.sp > 1:
        return AttentionChoice.ULYSSES
    return AttentionChoice.TENSOR if strategy.tp > 1 else AttentionChoice.DATA


def ffn_choice(layer: LayerSpec, strategy: LayerStrategy) -> FfnChoice:
    """How a layer's feed-forward block is split, as `--fix ffn=` names it."""
    if layer.is_moe and strategy.ep > 1:
        return FfnChoice.EXPERT
    degree = strategy.etp if layer.is_moe else strategy.ffn_tp
    return FfnChoice.TENSOR if degree > 1 else FfnChoice.REPLICATED
