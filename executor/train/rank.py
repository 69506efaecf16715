"""One rank of a run: its device, its process group, its steps."""

from __future__ import annotations

import logging
import os
import resource
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import torch
import torch.distributed as dist

from meshwright.costmodel.errors import InputError, MeshwrightError
from meshwright.costmodel.units import format_bytes
from meshwright.executor.data.open_data import open_data
from meshwright.executor.data.source import TokenSource
from meshwright.executor.layer.context import AttentionKernel, RoutingChoice
from meshwright.executor.model.numerics import Numerics
from meshwright.executor.ranks.place import Place
from meshwright.executor.state.learning_rate import LearningRate
from meshwright.executor.state.optimizer import AdamWSettings
from meshwright.executor.train.record import (
    RunRecord,
    StepLog,
    StepRecord,
    make_folder,
    settled_step_time_s,
    write_run,
)
from meshwright.executor.train.request import DeviceChoice, Format, RunRequest
from meshwright.executor.train.trainer import StepResult, Trainer, TrainingChoices
from meshwright.executor.train.utilization import is_planned_gpu, known_gpu, mfu_of
from meshwright.kernels.dispatch import LOGGER as KERNELS_LOGGER
from meshwright.kernels.dispatch import dispatcher
from meshwright.planner.plan import Plan
from meshwright.planner.plan_conversion import configuration_of

COLLECTIVE_TIMEOUT = timedelta(minutes=10)
"""How long a collective may take before the job ends: other ranks may be late, but not that late."""

Told = Callable[[StepRecord], None]


class RankMemoryError(MeshwrightError):
    """One rank has run out of memory: it says so itself, the others know nothing of it."""


def run_rank(request: RunRequest, plan: Plan, told: Told) -> RunRecord | None:
    """Train on this rank. Rank 0 tells of every step, writes the records and returns the summary."""
    rank, num_ranks = int(os.environ.get("RANK", "0")), plan.mesh.num_gpus
    device = _open_device(request.device)
    if rank:
        KERNELS_LOGGER.setLevel(logging.ERROR)  # rank 0 says for all which kernels do not run, and why
    if num_ranks > 1:
        _join(device)
    try:
        _check_same_device(device, num_ranks)
        summary = _train(request, plan, rank, device, told)
        if num_ranks > 1:
            dist.barrier()  # a rank that leaves while others still receive ends them by gloo's own exception
        return summary
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


def device_name(device: torch.device) -> str:
    """The name of a GPU, or cpu."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _choices(request: RunRequest, device: torch.device) -> TrainingChoices:
    on_cuda = device.type == "cuda"
    chosen = request.format
    if chosen is Format.AUTO:
        chosen = Format.BFLOAT16 if on_cuda else Format.FLOAT32
    return TrainingChoices(
        numerics=Numerics(
            device=device,
            dtype=getattr(torch, chosen.value),
            attention_kernel=(
                AttentionKernel.CUDNN if on_cuda and chosen is Format.BFLOAT16 else AttentionKernel.FORMULA
            ),
            fuse=on_cuda and request.balanced,  # compiled for one shape: rows of experts must not change
            routing=RoutingChoice(balanced=request.balanced),
        ),
        learning_rate=LearningRate(
            peak=request.learning_rate,
            num_steps=request.num_steps,
            warm_up_steps=request.warm_up_steps,
            decay=request.decay,
        ),
        optimizer=AdamWSettings(weight_decay=request.weight_decay, max_norm=request.max_norm),
        seed=request.seed,
        skip_not_finite=request.skip_not_finite,
    )


def open_run_data(request: RunRequest, plan: Plan) -> TokenSource:
    """The data that a run names, for the plan's vocabulary and sizes; raises `InputError`."""
    return open_data(
        request.data,
        vocabulary=plan.model.vocab,
        seq_len=plan.workload.seq_len,
        global_batch=plan.workload.global_batch,
        seed=request.seed,
    )


def _train(request: RunRequest, plan: Plan, rank: int, device: torch.device, told: Told) -> RunRecord | None:
    configuration = configuration_of(plan)
    trainer = Trainer(configuration, rank, _choices(request, device), open_run_data(request, plan))
    records = []
    if rank == 0:
        make_folder(request.output)
        with StepLog(request.output) as log:
            for record in _steps(trainer, request, plan, device):
                log.add(record)
                told(record)
                records.append(record)
    else:
        for _ in _steps(trainer, request, plan, device):
            pass
    peaks = _peaks(trainer, device)
    if rank > 0:
        return None
    summary = _summary(request, plan, trainer.choices, records, peaks)
    write_run(summary, request.output)
    return summary


def _steps(trainer: Trainer, request: RunRequest, plan: Plan, device: torch.device) -> Iterator[StepRecord]:
    before_s = time.perf_counter()
    for number in range(request.num_steps):
        result = trainer.step(number)
        now_s = time.perf_counter()
        yield _record(number, result, plan, now_s - before_s, device)
        before_s = now_s


def _record(number: int, result: StepResult, plan: Plan, step_time_s: float, device: torch.device) -> StepRecord:
    tokens_per_s = plan.workload.tokens / step_time_s
    return StepRecord(
        step=number,
        loss=result.loss,
        gradient_norm=result.gradient_norm,
        learning_rate=result.learning_rate,
        step_time_s=step_time_s,
        tokens_per_s=tokens_per_s,
        mfu=mfu_of(plan, tokens_per_s, known_gpu(device_name(device))),
        expert_load=result.expert_load,
        peak_memory_bytes=peak_memory_bytes(device),
        skipped=result.skipped,
    )


def peak_memory_bytes(device: torch.device) -> int:
    """The most that this process has held: on a GPU what its tensors took, elsewhere its resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _peaks(trainer: Trainer, device: torch.device) -> tuple[int, ...]:
    """The peak of the fullest rank of each pipeline stage. A collective."""
    own = (trainer.communicators.place.stage, peak_memory_bytes(device))
    found: list[tuple[int, int] | None] = [own]
    if trainer.communicators.world.size > 1:
        found *= trainer.communicators.world.size
        dist.all_gather_object(found, own)
    peaks = [0] * trainer.configuration.mesh.pp
    for stage, peak in filter(None, found):
        peaks[stage] = max(peaks[stage], peak)
    return tuple(peaks)


def _summary(
    request: RunRequest, plan: Plan, choices: TrainingChoices, records: list[StepRecord], peaks: tuple[int, ...]
) -> RunRecord:
    step_time_s = settled_step_time_s([record.step_time_s for record in records])
    tokens_per_s, device = plan.workload.tokens / step_time_s, choices.numerics.device
    prediction, gpu = plan.prediction, known_gpu(device_name(device))
    return RunRecord(
        plan=str(request.plan),
        model=plan.model.name,
        model_hash=plan.model.hash,
        mesh=plan.mesh,
        device=device_name(device),
        torch=str(torch.__version__),
        format=str(choices.numerics.dtype).removeprefix("torch."),
        seed=request.seed,
        num_steps=len(records),
        skipped_steps=sum(record.skipped for record in records),
        first_loss=records[0].loss,
        last_loss=records[-1].loss,
        step_time_s=step_time_s,
        predicted_step_time_s=prediction.step_time_s,
        predicted_step_time_interval_s=prediction.step_time_interval_s,
        comparable=is_planned_gpu(plan, gpu),
        tokens_per_s=tokens_per_s,
        predicted_tokens_per_s=prediction.tokens_per_s,
        mfu=mfu_of(plan, tokens_per_s, gpu),
        predicted_mfu=prediction.mfu,
        peak_memory_bytes=peaks,
        predicted_peak_memory_bytes=prediction.peak_memory_bytes,
        kernels=dispatcher().record(),
    )
