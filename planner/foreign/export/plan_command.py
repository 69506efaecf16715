"""The `meshwright plan` command line that plans the same model, cluster and batch under other choices."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

import msgspec

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.errors import MeshwrightError
from meshwright.costmodel.presets import load_model, preset_names
from meshwright.hardware_profiles import load_cluster


def plan_command(configuration: TrainingConfiguration, *, runtime: str, fixes: Mapping[str, str]) -> str:
    """The command, for a runtime and with pinned choices; a model or cluster that is no preset goes by its source."""
    workload = configuration.workload
    words = [
        *("meshwright", "plan", _model(configuration)),
        *("--cluster", _cluster(configuration), "--gpus", str(configuration.cluster.num_gpus)),
        *("--global-batch", str(workload.global_batch), "--seq-len", str(workload.seq_len)),
        *("--precision", str(workload.precision), "--runtime", runtime),
    ]
    if workload.expert_imbalance > 1.0:
        words += ["--expert-imbalance", str(workload.expert_imbalance)]
    words += ["--fix", ",".join(f"{name}={value}" for name, value in fixes.items()), "-o", "plan.json"]
    return shlex.join(words)


def _model(configuration: TrainingConfiguration) -> str:
    model = configuration.model
    if model.name in preset_names() and load_model(model.name).layers == model.layers:
        return model.name
    return model.source or model.name


def _cluster(configuration: TrainingConfiguration) -> str:
    """The preset's name, where it is this cluster; else what the cluster is called, as a file."""
    cluster = configuration.cluster
    try:
        known = load_cluster(cluster.name)
    except MeshwrightError:
        return f"{cluster.name}.yaml"
    same = msgspec.structs.replace(known, num_gpus=cluster.num_gpus) == cluster
    return cluster.name if same else f"{cluster.name}.yaml"
