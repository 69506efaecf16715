"""Model FLOPs utilization on the GPUs that a run is on, whatever the plan was for."""

from __future__ import annotations

from meshwright.costmodel.errors import InputError
from meshwright.costmodel.hardware import GpuSpec
from meshwright.executor.measure_hardware.base_profile import base_profile
from meshwright.planner.cluster_record import cluster_of
from meshwright.planner.plan import Plan


def known_gpu(device_name: str) -> GpuSpec | None:
    """The data sheet of a GPU by its driver's name for it; None for a CPU and for GPUs without a shipped profile.

    >>> known_gpu("NVIDIA H200").name, known_gpu("cpu")
    ('H200 SXM 141GB', None)
    """
    try:
        return base_profile(device_name).gpu
    except InputError:
        return None


def is_planned_gpu(plan: Plan, gpu: GpuSpec | None) -> bool:
    """Whether a plan's predictions are for this type of GPU."""
    return gpu is not None and gpu.name == cluster_of(plan.cluster).gpu.name


def mfu_of(plan: Plan, tokens_per_s: float, gpu: GpuSpec | None) -> float | None:
    """FLOPs of the model over the peak of all GPUs; None where the peak is not known."""
    if gpu is None:
        return None
    peak_flops_per_s = plan.mesh.num_gpus * gpu.peak_flops_per_s(plan.workload.precision)
    return plan.prediction.flops_per_token * tokens_per_s / peak_flops_per_s
