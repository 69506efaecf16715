"""Whether a plan's ranks are here, and what to plan for instead where they are not."""

from __future__ import annotations

from meshwright.costmodel.errors import PlanError
from meshwright.costmodel.presets import preset_names as model_presets
from meshwright.hardware_profiles.cluster_loader import preset_names as cluster_presets
from meshwright.planner.plan import Plan

MOST_CPU_RANKS = 16
"""Processes of a CPU run: each has an interpreter with PyTorch of its own."""


def plan_command(plan: Plan, num_gpus: int) -> str:
    """The command that plans the same training for another number of GPUs."""
    workload, model, cluster = plan.workload, plan.model.name, plan.cluster.name
    known_model = model if model in model_presets() else f"CONFIG-OF-{model}.json"
    known_cluster = cluster if cluster in cluster_presets() else f"CLUSTER-{cluster}.yaml"
    return (
        f"meshwright plan {known_model} --cluster {known_cluster} --gpus {num_gpus}"
        f" --global-batch {workload.global_batch} --seq-len {workload.seq_len}"
    )


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
