"""Parts of models that not every runtime runs: what each is called, and who asks for it."""

from __future__ import annotations

from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.model import LayerSpec, ModelSpec
from meshwright.costmodel.program.operators import Precision
from meshwright.costmodel.runtime import RuntimeSpec
from meshwright.costmodel.workload import Workload


def parts_of_layer(layer: LayerSpec, seq_len: int, precision: Precision) -> dict[str, str]:
    """Those that a layer asks for with such sequences: names as in `RuntimeSpec.not_run`, and words."""
    attention = layer.attention
    limited = 0 < attention.window < seq_len or 0 < attention.chunk < seq_len
    asked = {
        "window": (limited, "sliding windows and chunks"),
        "sinks": (attention.sinks, "attention sinks"),
        "shares_key_value": (attention.shares_key_value, "keys and values of another layer"),
        "precision": (precision is Precision.FP8, "FP8 products"),
    }
    return {name: what for name, (asks, what) in asked.items() if asks}


def parts_of_model(model: ModelSpec) -> dict[str, str]:
    """Those that a model asks for beside its layers."""
    asked = {
        "mtp_depth": (model.mtp_depth > 0, "multi-token prediction"),
        "learned_positions": (model.learned_positions > 0, "learned positions"),
    }
    return {name: what for name, (asks, what) in asked.items() if asks}


def check_runtime_runs(runtime: RuntimeSpec, model: ModelSpec, workload: Workload) -> None:
    """Raise `StrategyError` for the first part of the model that the runtime does not run."""
    asked = parts_of_model(model)
    for layer in model.layer_types:
        asked |= parts_of_layer(layer, workload.seq_len, workload.precision)
    for name, what in asked.items():
        if name in runtime.not_run:
            raise StrategyError("--runtime", "", f"{runtime.name} does not run {what} yet; plan for another runtime")
