"""Parse exported files with the parsers of torchtitan and of Megatron-Core, where these are installed.

    python scripts/parse_exported.py train.toml train.sh ...

Prints one JSON object a file. A TOML file goes through torchtitan's `ConfigManager`; its model (a flavor that the file
registers in its comments, too) is built on the meta device and its parameters are counted. A script's arguments are
read as `meshwright check` reads them, then Megatron-Core makes its `TransformerConfig` of them, which checks them, and
cuts the layout of stages. Megatron-LM's own argument parser, `megatron.training`, is in no package of Megatron-Core.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

RENAMED = {"num_experts": "num_moe_experts", "swiglu": "gated_linear_unit", "fp8_format": "fp8"}
"""Settings that Megatron-Core's configuration calls otherwise than the command line."""

SINGLE = ("cp_comm_type", "moe_router_load_balancing_type")
"""Lists that Megatron-LM hands on as their one element."""


NEEDS_ENGINE = ("fp8", "moe_permute_fusion")
"""Settings that Megatron-Core refuses where Transformer Engine is not installed; left out there."""


def main(files: list[str]) -> None:
    """Parse each file; an exception of the parser ends the program."""
    for name in files:
        path = Path(name)
        parsed = _torchtitan(path) if path.suffix == ".toml" else _megatron(path)
        print(json.dumps({"file": path.name, **parsed}))


def _torchtitan(path: Path) -> dict[str, object]:
    import torch
    from torchtitan.config import ConfigManager
    from torchtitan.protocols.train_spec import get_train_spec

    os.environ |= {"NORM_EPSILON": "1e-6", "ROPE_THETA": "1e6", "NORM_TOPK_PROB": "true"}
    text = path.read_text(encoding="utf-8")
    config = ConfigManager().parse_args(["--job.config_file", str(path)])
    lines = [line.removeprefix("# | ") for line in text.splitlines() if line.startswith("# | ")]
    exec("\n".join(lines))  # the flavor to register, as a user would save it
    spec = get_train_spec(config.model.name)
    arguments = spec.model_args[config.model.flavor]
    arguments.update_from_config(config)
    if hasattr(arguments, "moe_impl"):
        arguments.moe_impl = "standard"  # the same parameters, and DeepEP need not be installed
    with torch.device("meta"):
        model = spec.model_cls(arguments)
    biases = [bias.numel() for name, bias in model.named_buffers() if name.endswith("expert_bias")]
    parts = config.parallelism.module_fqns_per_model_part or []
    return {
        "version": f"torchtitan {version('torchtitan')}",
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "expert_biases": sum(biases),
        "layers_per_stage": [sum(name.startswith("layers.") for name in part) for part in parts],
        "can_be_cut": spec.pipelining_fn is not None,
    }


def _megatron(path: Path) -> dict[str, object]:
    import torch.nn.functional as functional
    from megatron.core.transformer import MLATransformerConfig, TransformerConfig

    from meshwright.planner.foreign import FRAMEWORKS, Source

    source = Source(where=str(path), text=path.read_text(encoding="utf-8"), suffix=path.suffix)
    settings = FRAMEWORKS["megatron"].read(source).settings
    kind = MLATransformerConfig if settings.on("multi_latent_attention") else TransformerConfig
    fields = {field.name for field in dataclasses.fields(kind)}
    values: dict[str, Any] = {RENAMED.get(name, name): value for name, value in settings.values.items()}
    known = {name: _plain(value) for name, value in values.items() if name in fields and value is not None}
    known |= {name: known[name][0] for name in SINGLE if len(known.get(name, ())) == 1}
    if find_spec("transformer_engine") is None:
        known = {name: value for name, value in known.items() if not name.startswith(NEEDS_ENGINE)}
    known |= {"params_dtype": _bf16(), "pipeline_dtype": _bf16(), "use_cpu_initialization": True}
    known["virtual_pipeline_model_parallel_size"] = _chunks(settings)
    if settings.on("swiglu"):
        known["activation_func"] = functional.silu
    if "moe_layer_freq" in known:
        frequency = str(known["moe_layer_freq"])
        known["moe_layer_freq"] = int(frequency) if frequency.isdecimal() else eval(frequency)  # as Megatron-LM does
    config = kind(**known)
    layout = config.pipeline_model_parallel_layout
    return {
        "version": f"megatron-core {version('megatron-core')}",
        "fields": len(known),
        "layers_per_stage": layout.layout and [stage.count(_decoder()) for stage in _stages(layout)] if layout else [],
    }


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _bf16() -> object:
    import torch

    return torch.bfloat16


def _decoder() -> object:
    from megatron.core.transformer.enums import LayerType

    return LayerType.decoder


def _stages(layout: Any) -> list[Any]:  # noqa: ANN401  Megatron-Core's own type
    """Virtual stages in the order of the model: devices inside of chunks."""
    chunks = len(layout.layout[0])
    return [device[chunk] for chunk in range(chunks) for device in layout.layout]


def _chunks(settings: Any) -> int | None:  # noqa: ANN401
    """Virtual stages of a device, None for one."""
    from meshwright.planner.foreign.megatron.stages import virtual_stages

    chunks = virtual_stages(settings)
    return chunks if chunks > 1 else None


if __name__ == "__main__":
    main(sys.argv[1:])
