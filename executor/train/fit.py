"""Whether a plan's ranks are here, and what to plan for instead where they are not."""

from __future__ import annotations

import shlex
from pathlib import Path

from meshwright.costmodel.errors import PlanError
from meshwright.costmodel.presets import preset_names as model_presets
from meshwright.costmodel.program.operators import Precision
from meshwright.hardware_profiles.cluster_loader import preset_names as cluster_presets
from meshwright.planner.plan import Plan

DEFAULT_RUNTIME = "meshwright"
MOST_CPU_RANKS = 16
"""Processes of a CPU run: each has an interpreter with PyTorch of its own."""


def plan_command(plan: Plan, num_gpus: int) -> str:
    """The command that plans the same training for another number of GPUs, and what must be filled in.

    A plan has its choices, but not which of them were pinned.
    """
    workload, model, cluster = plan.workload, plan.model, plan.cluster.name
    notes = ["the --fix of this plan again, if it had some"]
    known_model, known_cluster = model.name, cluster
    if cluster not in cluster_presets():
        known_cluster = "CLUSTER"
        notes.insert(0, f"CLUSTER: the file of the cluster {cluster}")
    if model.name not in model_presets():
        known_model = model.source
        if not _is_file(model.source):
            known_model = "MODEL"
            notes.insert(0, f"MODEL: the config.json of {model.name}")
    words = ["meshwright", "plan", known_model, "--cluster", known_cluster, "--gpus", str(num_gpus)]
    words += ["--global-batch", str(workload.global_batch), "--seq-len", str(workload.seq_len)]
    words += ["--precision", workload.precision.value] * (workload.precision is not Precision.BF16)
    words += ["--expert-imbalance", str(workload.expert_imbalance)] * (workload.expert_imbalance > 1.0)
    words += ["--runtime", plan.runtime.name] * (plan.runtime.name != DEFAULT_RUNTIME)
    return f"{shlex.join([*words, '-o', f'plan_{num_gpus}.json'])} ({'; '.join(notes)})"


def _is_file(text: str) -> bool:
    """Whether a model's source, which may be any text, is a file here."""
    try:
        return Path(text).is_file()
    except (OSError, ValueError):
        return False


def check_world(plan: Plan, where: str, num_ranks: int, what: str) -> None:
    """Refuse a plan for another number of ranks than there are; `what` says what they are."""
    planned = plan.mesh.num_gpus
    if planned != num_ranks:
        raise PlanError(
            where,
            "mesh",
            f"the plan is for {planned} ranks, here are {num_ranks} {what}: {plan_command(plan, num_ranks)}",
        )


def check_gpus(plan: Plan, where: str, num_gpus: int) -> None:
    """Refuse a plan for more GPUs than this host has."""
    planned = plan.mesh.num_gpus
    if planned > num_gpus:
        raise PlanError(
            where,
            "mesh",
            f"the plan is for {planned} GPUs, this host has {num_gpus}:"
            f" {plan_command(plan, max(1, num_gpus))}, or start it on several hosts by torchrun, or --device cpu,"
            " or time a part of it with --emulate layers",
        )


def check_cpu_ranks(plan: Plan, where: str) -> None:
    """Refuse a plan for more processes than a host should start."""
    planned = plan.mesh.num_gpus
    if planned > MOST_CPU_RANKS:
        raise PlanError(
            where,
            "mesh",
            f"the plan is for {planned} ranks, on a CPU at most {MOST_CPU_RANKS} are started:"
            f" {plan_command(plan, MOST_CPU_RANKS)}",
        )
