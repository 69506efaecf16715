"""One rank of a run: its device, its process group, its steps."""

from __future__ import annotations

import logging
import os
import re
import sys
from datetime import timedelta

import torch
import torch.distributed as dist

from meshwright.costmodel.errors import InputError, MeshwrightError
from meshwright.costmodel.strategy import Recompute
from meshwright.costmodel.units import format_bytes
from meshwright.executor.emulate.emulation import Emulation
from meshwright.executor.layer.functions.compiled import LOGGER as COMPILED_LOGGER
from meshwright.executor.observe.whereabouts import Outcome
from meshwright.executor.ranks.place import Place
from meshwright.executor.train.inputs import RunInputs
from meshwright.executor.train.job import Job, Told
from meshwright.executor.train.meeting import Meeting
from meshwright.executor.train.record import RunRecord
from meshwright.executor.train.request import DeviceChoice, RunRequest
from meshwright.executor.train.summary import device_name, peak_memory_bytes
from meshwright.executor.train.supervision import rank_whereabouts
from meshwright.executor.train.utilization import is_planned_gpu, known_gpu
from meshwright.kernels.dispatch import LOGGER as KERNELS_LOGGER
from meshwright.planner.cluster_record import cluster_of
from meshwright.planner.describe.section import ranges
from meshwright.planner.plan import Plan

TORCH_LATER_S = 60.0
"""How much later than our own time-out torch's is: it knows less, and ends the process with less to say."""


class RankMemoryError(MeshwrightError):
    """One rank has run out of memory: it says so itself, the others know nothing of it."""


class LostRanksError(MeshwrightError):
    """Other ranks no longer answer."""


def run_rank(
    request: RunRequest,
    plan: Plan,
    inputs: RunInputs,
    told: Told,
    emulation: Emulation | None = None,
    meeting: Meeting | None = None,
) -> RunRecord | None:
    """Train on this rank; `plan` stands for that of the emulation, if there is one. `meeting`: with other ranks.

    Rank 0 tells of every step, writes the records and returns the summary.
    """
    rank = 0 if meeting is None else meeting.rank
    device = _open_device(request.device)
    if rank:
        for logger in (KERNELS_LOGGER, COMPILED_LOGGER):  # rank 0 says for all what does not run, and why
            logger.setLevel(logging.ERROR)
    whereabouts = rank_whereabouts(rank)
    if meeting is not None:
        _join(device, meeting, request.timeout_s)
    try:
        _check_same_device(device, plan, rank)
        record = Job(request, plan, inputs, rank, device, told, whereabouts, emulation).run()
    except torch.OutOfMemoryError as error:
        raise _out_of_memory(plan, rank, device) from error
    except RuntimeError as error:
        if not _is_of_others(error):
            raise
        whereabouts.end(Outcome.LOST)
        raise LostRanksError(f"run: rank {rank} lost others in {whereabouts.position}: {_reason(error)}") from error
    if meeting is not None:
        dist.destroy_process_group()  # not where a rank fails: gloo's threads may be at work, and end the process
    return record


def _reason(error: RuntimeError) -> str:
    """What an error of a connection says, without the place in gloo's sources and without its advice.

    >>> _reason(RuntimeError("[/gloo/pair.cc:537] Read error [127.0.0.1]:65196: Connection reset by peer. This is ..."))
    'Read error [127.0.0.1]:65196: Connection reset by peer'
    """
    return re.sub(r"^\[\S+\] ", "", str(error).partition("\n")[0]).partition(". ")[0]


def _is_of_others(error: RuntimeError) -> bool:
    """Whether an error is one of a connection: gloo's have no type of their own."""
    return isinstance(error, dist.DistError) or "gloo" in str(error) or "Connection" in str(error)


def _out_of_memory(plan: Plan, rank: int, device: torch.device) -> RankMemoryError:
    stage = Place(mesh=plan.mesh, rank=rank).stage
    predicted = format_bytes(plan.prediction.peak_memory_bytes[stage])
    return RankMemoryError(
        f"run: rank {rank} (pipeline stage {stage}) is out of memory at {format_bytes(peak_memory_bytes(device))} of"
        f" tensors, predicted were {predicted}; plan again with {_what_needs_less(plan)}"
    )


def _what_needs_less(plan: Plan) -> str:
    """What of a plan can be changed so that it needs less memory."""
    micro_batch, ways = plan.pipeline.micro_batch_size, []
    if micro_batch > 1:
        ways.append(f"--fix mbs={micro_batch // 2}")
    if any(group.strategy.recompute is not Recompute.FULL for group in plan.layers):
        ways.append("--fix recompute=full")
    return " or ".join(ways or [f"more GPUs than {plan.mesh.num_gpus}"])


def _open_device(choice: DeviceChoice) -> torch.device:
    if choice is DeviceChoice.CPU:
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def _join(device: torch.device, meeting: Meeting, timeout_s: float) -> None:
    on_cuda = device.type == "cuda"
    try:
        dist.init_process_group(
            "nccl" if on_cuda else "gloo",
            store=meeting.store,
            rank=meeting.rank,
            world_size=meeting.world_size,
            timeout=timedelta(seconds=timeout_s + TORCH_LATER_S),
            device_id=device if on_cuda else None,
        )
    except RuntimeError as error:  # gloo's have no type of their own
        raise InputError("run", "", f"ranks cannot join: {_reason(error)}") from error


def _check_same_device(device: torch.device, plan: Plan, rank: int) -> None:
    """Refuse ranks on different devices, with the ranks of each, and what the plan is for."""
    own = device_name(device)
    names: list[str] = [own] * plan.mesh.num_gpus
    if plan.mesh.num_gpus > 1:
        dist.all_gather_object(names, own)
    found: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        found.setdefault(name, []).append(number)
    planned = cluster_of(plan.cluster).gpu.name
    if len(found) > 1:
        texts = "; ".join(f"{name}: ranks {ranges(numbers)}" for name, numbers in found.items())
        raise InputError("run", "", f"ranks are on different devices ({texts}); the plan is for {planned} alone")
    if rank == 0 and device.type == "cuda" and not is_planned_gpu(plan, known_gpu(own)):
        sys.stderr.write(f"meshwright: run: on {own}, the plan is for {planned}: its predictions do not hold here\n")
