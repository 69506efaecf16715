"""One rank of a run: its device, its process group, its steps."""

from __future__ import annotations

import logging
import os
from datetime import timedelta

import torch
import torch.distributed as dist

from meshwright.costmodel.errors import InputError, MeshwrightError
from meshwright.costmodel.units import format_bytes
from meshwright.executor.layer.functions.compiled import LOGGER as COMPILED_LOGGER
from meshwright.executor.ranks.place import Place
from meshwright.executor.train.inputs import RunInputs
from meshwright.executor.train.job import Job, Told
from meshwright.executor.train.record import RunRecord
from meshwright.executor.train.request import DeviceChoice, RunRequest
from meshwright.executor.train.summary import device_name, peak_memory_bytes
from meshwright.kernels.dispatch import LOGGER as KERNELS_LOGGER
from meshwright.planner.plan import Plan

COLLECTIVE_TIMEOUT = timedelta(minutes=10)
"""How long a collective may take before the job ends: other ranks may be late, but not that late."""


class RankMemoryError(MeshwrightError):
    """One rank has run out of memory: it says so itself, the others know nothing of it."""


def run_rank(request: RunRequest, plan: Plan, inputs: RunInputs, told: Told) -> RunRecord | None:
    """Train on this rank. Rank 0 tells of every step, writes the records and returns the summary."""
    rank, num_ranks = int(os.environ.get("RANK", "0")), plan.mesh.num_gpus
    device = _open_device(request.device)
    if rank:
        for logger in (KERNELS_LOGGER, COMPILED_LOGGER):  # rank 0 says for all what does not run, and why
            logger.setLevel(logging.ERROR)
    if num_ranks > 1:
        _join(device)
    try:
        _check_same_device(device, num_ranks)
        return Job(request, plan, inputs, rank, device, told).run()
    except torch.OutOfMemoryError as error:
        raise _out_of_memory(plan, rank, device) from error
    finally:
        if num_ranks > 1:
            dist.destroy_process_group()


def _out_of_memory(plan: Plan, rank: int, device: torch.device) -> RankMemoryError:
    stage = Place(mesh=plan.mesh, rank=rank).stage
    predicted = format_bytes(plan.prediction.peak_memory_bytes[stage])
    return RankMemoryError(
        f"run: rank {rank} (pipeline stage {stage}) is out of memory at {format_bytes(peak_memory_bytes(device))} of"
        f" tensors, predicted were {predicted}; plan again with --fix mbs={max(1, plan.pipeline.micro_batch_size // 2)}"
        " or --fix recompute=full"
    )


def _open_device(choice: DeviceChoice) -> torch.device:
    if choice is DeviceChoice.CPU:
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def _join(device: torch.device) -> None:
    try:
        _init(device)
    except dist.DistNetworkError as error:
        where = f"{os.environ.get('MASTER_ADDR', '')}:{os.environ.get('MASTER_PORT', '')}"
        raise InputError("run", "", f"ranks cannot meet at {where}: {_network_problem(str(error))}") from error


def _network_problem(text: str) -> str:
    if "EADDRINUSE" in text or "already in use" in text:
        return "the port is in use; take another (torchrun --rdzv-endpoint HOST:PORT)"
    return text.partition("\n")[0]


def _init(device: torch.device) -> None:
    if device.type == "cuda":
        dist.init_process_group("nccl", timeout=COLLECTIVE_TIMEOUT, device_id=device)
    else:
        dist.init_process_group("gloo", timeout=COLLECTIVE_TIMEOUT)


def _check_same_device(device: torch.device, num_ranks: int) -> None:
    names: list[str | None] = [device_name(device)] * num_ranks
    if num_ranks > 1:
        dist.all_gather_object(names, device_name(device))
    if len(set(names)) > 1:
        found = ", ".join(sorted({str(name) for name in names}))
        raise InputError("run", "", f"ranks are on different devices ({found}); a plan is for GPUs of one type")
