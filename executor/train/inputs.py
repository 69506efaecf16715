"""What a run reads beside its plan, opened and checked before anything starts."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from msgspec.structs import replace

from meshwright.costmodel.errors import InputError
from meshwright.costmodel.model import ModelSpec
from meshwright.executor.checkpoint.folder import CheckpointFolder
from meshwright.executor.data.open_data import open_data
from meshwright.executor.data.source import TokenSource
from meshwright.executor.train.described import DescribedModel, check_same_model, describe_model
from meshwright.executor.train.event_log import check_tensorboard
from meshwright.executor.train.request import RunRequest
from meshwright.executor.weights.companions import NO_COMPANIONS, Companions, find_companions
from meshwright.executor.weights.config import family_and_config
from meshwright.executor.weights.config_file import CONFIG, read_config_fields
from meshwright.executor.weights.import_weights import WeightSource, open_source
from meshwright.planner.plan import Plan
from meshwright.planner.plan_conversion import configuration_of


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInputs:
    """The model's numerics, its data, and the weights that it begins with, None for random ones.

    `skipped_checkpoints`: which damaged ones it does not resume from, and from which it does; empty without any.
    `companions`: what is to be exported beside the weights.
    """

    described: DescribedModel
    data: TokenSource
    weights: WeightSource | None
    skipped_checkpoints: str = ""
    companions: Companions = NO_COMPANIONS

    def max_length(self, plan: Plan) -> int:
        """The longest sequence that an exported model says it is for."""
        return max(self.described.max_length, plan.workload.seq_len)


def open_inputs(request: RunRequest, plan: Plan, described: ModelSpec | None = None) -> RunInputs:
    """Open what a run reads and check where it writes; raises `InputError`.

    `described`: the model that a description is of, where the plan's is a part of it.
    """
    model, workload = configuration_of(plan).model, plan.workload
    data = open_data(
        request.data,
        vocabulary=plan.model.vocab,
        seq_len=workload.seq_len,
        global_batch=workload.global_batch,
        seed=request.seed,
    )
    inputs = RunInputs(
        described=describe_model(described or model, request.model or request.load),
        data=data,
        weights=None if request.load is None or request.resume else _weights(request.load, model),
    )
    if request.tensorboard:
        check_tensorboard()
    if request.checkpoint is not None:
        from meshwright.executor.train.run_checkpoints import check_start  # torch's part takes a second to import

        told = check_start(request.checkpoint, model, resumes=request.resume)
        there = (request.checkpoint, *request.checkpoint.resolve().parents)
        _check_writable(request.checkpoint, next(path for path in there if path.exists()))
        inputs = dataclasses.replace(inputs, skipped_checkpoints=told)
    if request.export is not None:
        check_export(request.export, model, inputs, plan)
        inputs = dataclasses.replace(inputs, companions=_companions(request.load or request.model))
    return inputs


def with_restart(request: RunRequest, num_restarts: int) -> RunRequest:
    """A run that torchrun has started again goes on from its newest checkpoint, if it has one."""
    if request.checkpoint is None or not num_restarts:
        return request
    if CheckpointFolder(path=request.checkpoint).latest() is None:
        return request
    return replace(request, resume=True)


def _companions(source: Path | None) -> Companions:
    """Those beside the weights that a run begins with, or beside the file that describes its model."""
    if source is None:
        return NO_COMPANIONS
    file = source / CONFIG if source.is_dir() else source
    return find_companions(read_config_fields(file), file.parent)


def _weights(folder: Path, model: ModelSpec) -> WeightSource:
    source = open_source(folder)
    check_same_model(model, source.model, str(folder / "config.json"))
    return source


def _check_writable(folder: Path, place: Path) -> None:
    """Raise where nothing could be written in the place of a folder; one process tries, and leaves nothing behind."""
    if os.environ.get("RANK", "0") != "0":
        return
    try:
        with TemporaryDirectory(dir=place, prefix=".meshwright-"):
            pass
    except OSError as error:
        raise InputError(str(folder), "", f"cannot be written: {error.strerror}") from error


def check_export(folder: Path, model: ModelSpec, inputs: RunInputs, plan: Plan) -> None:
    """Raise where an export at the end of the run would fail."""
    family_and_config(model, inputs.described.numerics, inputs.max_length(plan))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(str(folder), "", "exists, expected a new or empty folder")
    if not folder.parent.is_dir():
        raise InputError(str(folder), "", "cannot be written; expected a place in an existing folder")
    _check_writable(folder, folder.parent)
