"""torchtitan's settings as a TOML file."""

from __future__ import annotations

import json
from collections.abc import Iterable

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.planner.foreign.settings import Settings
from meshwright.planner.foreign.stated import given_options
from meshwright.planner.foreign.torchtitan.configuration import GLOBAL_BATCH, PARTS, SHARD
from meshwright.planner.foreign.torchtitan.model_args import FlavorName, registration
from meshwright.planner.foreign.torchtitan.run_settings import LINEAR, float8_filters

SIGNED = (GLOBAL_BATCH, SHARD)
"""Whole numbers that may be -1, which are read as text."""

OWN_FLAVOR = "meshwright_flavor"
FROM_USER = "--model.hf_assets_path --training.dataset --training.steps --optimizer.lr --lr_scheduler.warmup_steps"


def toml_text(
    settings: Settings, configuration: TrainingConfiguration, flavor: FlavorName, comments: tuple[str, ...]
) -> str:
    """The file: comments, how to start it, the flavor to register where torchtitan has none, and the sections."""
    lines = [*comments, "", *_launch(configuration), *_flavor_lines(configuration, flavor)]
    text = "".join(f"# {line}".rstrip() + "\n" for line in lines)
    for section, entries in _sections(settings, configuration, flavor).items():
        text += "\n" + "".join(f"{line}\n" for line in (f"[{section}]", *entries))
    return text


def _launch(configuration: TrainingConfiguration) -> list[str]:
    cluster = configuration.cluster
    per_node = min(cluster.gpus_per_node, cluster.num_gpus)
    nodes = -(-cluster.num_gpus // per_node)
    return [
        f"Start: torchrun --nnodes {nodes} --nproc-per-node {per_node} --rdzv-backend c10d --rdzv-endpoint HOST:PORT"
        " -m torchtitan.train --job.config_file THIS_FILE",
        f"A plan does not hold what these say, so give them: {FROM_USER}",
    ]


def _flavor_lines(configuration: TrainingConfiguration, flavor: FlavorName) -> list[str]:
    if not flavor.own:
        return []
    return [
        "",
        f"torchtitan has no flavor with these layers. Register one: put the lines below into {OWN_FLAVOR}.py, where",
        "Python finds it, and set NORM_EPSILON, ROPE_THETA (and NORM_TOPK_PROB) from the model's config.json.",
        *(f"| {line}" for line in registration(configuration.model, flavor)),
    ]


def _sections(settings: Settings, configuration: TrainingConfiguration, flavor: FlavorName) -> dict[str, list[str]]:
    sections: dict[str, list[str]] = {}
    for setting, option in given_options(settings):
        section, _, key = option.name.rpartition(".")
        sections.setdefault(section, []).append(f"{key} = {_value(settings, setting)}")
    if LINEAR in settings.words("model.converters"):
        filters = float8_filters(configuration.model)
        sections.setdefault(LINEAR, []).append(f"filter_fqns = {json.dumps(filters)}")
    if flavor.own:
        sections["experimental"] = [f"custom_import = {json.dumps(OWN_FLAVOR)}"]
    return sections


def _value(settings: Settings, name: str) -> str:
    """A value as TOML writes it."""
    value = settings.values[name]
    if name in SIGNED:
        return str(value)
    if name == PARTS:
        return _stages(settings.words(PARTS))
    return json.dumps(value)


def _stages(parts: Iterable[str]) -> str:
    """A list of lists, one stage a line."""
    return "[\n" + "".join(f"    {json.dumps(part.split())},\n" for part in parts) + "]"
