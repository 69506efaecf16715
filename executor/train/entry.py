"""`meshwright run`: checks what can be checked before anything starts, then starts the ranks or is one of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress

import torch
from msgspec.structs import replace

from meshwright.costmodel.errors import InputError, MeshwrightError
from meshwright.executor.emulate.emulation import Emulation, emulate
from meshwright.executor.train.balancing import BALANCED, check_balancing, check_has_experts
from meshwright.executor.train.failure import FailureRecord, write_failure
from meshwright.executor.train.fit import check_cpu_ranks, check_gpus, check_world
from meshwright.executor.train.host_memory import available_host_bytes, check_host_memory
from meshwright.executor.train.inputs import RunInputs, open_inputs, with_restart
from meshwright.executor.train.launch import launch_ranks
from meshwright.executor.train.meeting import Meeting, meet, own_restarts
from meshwright.executor.train.rank import run_rank
from meshwright.executor.train.record import RunRecord, StepRecord, make_folder
from meshwright.executor.train.refusals import check_runs
from meshwright.executor.train.request import DeviceChoice, RunRequest
from meshwright.executor.train.stopping import StoppedError
from meshwright.executor.train.supervision import is_supervised
from meshwright.planner.plan import Plan
from meshwright.planner.plan_conversion import configuration_of
from meshwright.planner.serialise import read_plan

EMULATED_CPU_RANKS = 4


def is_started_rank() -> bool:
    """Whether torchrun has started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def run(request: RunRequest, arguments: Sequence[str], told: Callable[[StepRecord], None]) -> RunRecord | None:
    """Run a plan. `arguments` start this same command again, once for each rank of this host.

    Returns the summary on the rank that has it: none where other processes have trained.
    """
    where = str(request.plan)
    plan = read_plan(request.plan)
    request = replace(request, device=_device(request.device))
    emulation = None
    if request.emulate:
        emulation = emulate(plan, where, _ranks_here(request.device), request.emulate)
        plan = emulation.plan
    if is_started_rank():
        check_world(plan, where, int(os.environ["WORLD_SIZE"]), "started by torchrun")
    else:
        _check_host(request, plan, where)
    configuration = configuration_of(plan)
    check_runs(configuration, where)
    if request.device is DeviceChoice.CPU and not is_supervised():  # whose memory others of the run already take
        check_host_memory(configuration, request, where, _ranks_of_host(plan), available_host_bytes())
    check_balancing(request.balancing, configuration)
    if request.balanced:
        check_has_experts(BALANCED, configuration if emulation is None else emulation.full)
    meeting = meet(request.timeout_s) if is_started_rank() and plan.mesh.num_gpus > 1 else None
    request = with_restart(request, own_restarts() if meeting is None else meeting.restarts)
    inputs = open_inputs(request, plan, None if emulation is None else emulation.full.model)
    _tell(inputs)
    make_folder(request.output)
    if is_started_rank() or plan.mesh.num_gpus == 1:
        return _run_here(request, plan, inputs, told, emulation, meeting)
    on_cpu, saves = request.device is DeviceChoice.CPU, request.checkpoint is not None
    launch_ranks(plan.mesh.num_gpus, arguments, request.output, on_cpu=on_cpu, saves=saves)
    return None


def _is_first() -> bool:
    """Whether this process writes what one of several does: the first rank, or whoever is alone."""
    return not is_started_rank() or os.environ["RANK"] == "0"


def _run_here(
    request: RunRequest,
    plan: Plan,
    inputs: RunInputs,
    told: Callable[[StepRecord], None],
    emulation: Emulation | None,
    meeting: Meeting | None,
) -> RunRecord | None:
    """Be a rank. Why it fails, the first one writes to `run.json` if nobody else does."""
    try:
        return run_rank(request, plan, inputs, told, emulation, meeting)
    except StoppedError:
        raise
    except MeshwrightError as error:
        if _is_first() and not is_supervised():
            failed = str(error).removeprefix("run: ")
            with suppress(InputError):  # why the run has failed matters more
                write_failure(FailureRecord(failed=failed, rank=0, status=error.exit_status), request.output)
        raise


def _tell(inputs: RunInputs) -> None:
    """Say what was found; of several processes one does."""
    if inputs.skipped_checkpoints and _is_first() and not is_supervised():
        sys.stderr.write(f"meshwright: run: {inputs.skipped_checkpoints}\n")


def _device(choice: DeviceChoice) -> DeviceChoice:
    available = torch.cuda.is_available()
    if choice is DeviceChoice.CUDA and not available:
        raise InputError("--device", "cuda", "PyTorch sees no CUDA GPU here; expected cpu or auto")
    if choice is DeviceChoice.AUTO:
        return DeviceChoice.CUDA if available else DeviceChoice.CPU
    return choice


def _ranks_here(device: DeviceChoice) -> int:
    """Ranks that can run here: those that torchrun has started, or one a GPU, or a few on the CPU."""
    if is_started_rank():
        return int(os.environ["WORLD_SIZE"])
    return torch.cuda.device_count() if device is DeviceChoice.CUDA else EMULATED_CPU_RANKS


def _ranks_of_host(plan: Plan) -> int:
    """The plan's ranks that run on this host."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if is_started_rank() else plan.mesh.num_gpus


def _check_host(request: RunRequest, plan: Plan, where: str) -> None:
    if request.device is DeviceChoice.CUDA:
        check_gpus(plan, where, torch.cuda.device_count())
    else:
        check_cpu_ranks(plan, where)
