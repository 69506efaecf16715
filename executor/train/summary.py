"""What a run has measured beside what its plan predicted."""

from __future__ import annotations

import resource
from collections.abc import Sequence

import torch
import torch.distributed as dist

from meshwright.executor.layer.groups import Communicator
from meshwright.executor.train.as_run import as_run
from meshwright.executor.train.described import DescribedModel
from meshwright.executor.train.operator_times import OperatorTimes
from meshwright.executor.train.record import NumericsRecord, RunRecord, StepRecord, settled_step_time_s
from meshwright.executor.train.request import RunRequest
from meshwright.executor.train.stage_times import RankTimes, slow_ranks, stage_times
from meshwright.executor.train.trainer import StepResult, Trainer
from meshwright.executor.train.utilization import is_planned_gpu, known_gpu, mfu_of
from meshwright.kernels.dispatch import dispatcher
from meshwright.planner.plan import Plan


def device_name(device: torch.device) -> str:
    """The name of a GPU, or cpu."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def peak_memory_bytes(device: torch.device) -> int:
    """The most that this process has held: on a GPU what its tensors took, elsewhere its resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def step_record(
    number: int, result: StepResult, plan: Plan, step_time_s: float, device: torch.device, *, recorded: bool
) -> StepRecord:
    """The line of a step."""
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
        repeated=result.repeated,
        recorded=recorded,
        aux_loss=result.aux_loss,
        z_loss=result.z_loss,
        dropped_fraction=result.dropped_fraction,
    )


def stage_peaks(stage: int, num_stages: int, device: torch.device, world: Communicator) -> tuple[int, ...]:
    """The peak memory, bytes, of the fullest rank of each pipeline stage. A collective."""
    own = (stage, peak_memory_bytes(device))
    found: list[tuple[int, int] | None] = [own] * world.size
    if world.size > 1:
        dist.all_gather_object(found, own)
    peaks = [0] * num_stages
    for number, peak in filter(None, found):
        peaks[number] = max(peaks[number], peak)
    return tuple(peaks)


def run_record(
    request: RunRequest,
    plan: Plan,
    trainer: Trainer,
    described: DescribedModel,
    records: Sequence[StepRecord],
    peaks: tuple[int, ...],
    times: Sequence[RankTimes],
    operators: tuple[OperatorTimes, ...],
) -> RunRecord:
    """The summary of a run that took at least one step."""
    unrecorded = [record for record in records if not record.recorded] or records
    plain = [record for record in unrecorded if not record.repeated] or unrecorded
    step_time_s = settled_step_time_s([record.step_time_s for record in plain])
    numerics = trainer.choices.numerics
    tokens_per_s, name = plan.workload.tokens / step_time_s, device_name(numerics.device)
    prediction, gpu = plan.prediction, known_gpu(name)
    return RunRecord(
        plan=str(request.plan),
        model=plan.model.name,
        model_hash=plan.model.hash,
        numerics=numerics_record(described),
        data=request.data,
        mesh=plan.mesh,
        device=name,
        torch=str(torch.__version__),
        format=str(numerics.dtype).removeprefix("torch."),
        seed=request.seed,
        exchanged_rows=request.exchanged_rows,
        first_step=records[0].step,
        num_steps=len(records),
        balancing=request.balancing,
        skipped_steps=sum(record.skipped for record in records),
        repeated_steps=sum(record.repeated for record in records),
        first_loss=records[0].loss,
        last_loss=records[-1].loss,
        step_time_s=step_time_s,
        predicted_step_time_s=prediction.step_time_s,
        predicted_step_time_interval_s=prediction.step_time_interval_s,
        predicted_as_run=as_run(trainer.configuration, balanced=numerics.balanced, one_stream=trainer.on_one_stream),
        comparable=is_planned_gpu(plan, gpu),
        tokens_per_s=tokens_per_s,
        predicted_tokens_per_s=prediction.tokens_per_s,
        mfu=mfu_of(plan, tokens_per_s, gpu),
        predicted_mfu=prediction.mfu,
        peak_memory_bytes=peaks,
        predicted_peak_memory_bytes=prediction.peak_memory_bytes,
        stages=stage_times(trainer.configuration, times, prediction.step_time_s),
        slow_ranks=slow_ranks(times),
        kernels=dispatcher().record(),
        one_stream=trainer.on_one_stream,
        operators=operators,
    )


def numerics_record(described: DescribedModel) -> NumericsRecord:
    """The numerics of a run, for its records."""
    numerics = described.numerics
    return NumericsRecord(
        source=described.source,
        norm_epsilon=numerics.norm_epsilon,
        rope_theta=numerics.rope_theta,
        rope_scaling=str(numerics.rope_scaling),
        normalize_gates=numerics.routing.normalize,
        routed_scale=numerics.routing.scale,
    )


def numerics_fields(described: DescribedModel) -> dict[str, int | float | str | bool]:
    """The numerics by field, without their source."""
    record = numerics_record(described)
    return {f"numerics.{name}": getattr(record, name) for name in record.__struct_fields__ if name != "source"}
