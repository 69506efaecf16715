"""Checkpoints of a run: what they belong to, when the run may start from them, and when not."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from meshwright.costmodel.errors import InputError
from meshwright.costmodel.model import ModelSpec
from meshwright.executor.checkpoint.checkpointer import Checkpointer
from meshwright.executor.checkpoint.folder import CheckpointFolder
from meshwright.executor.checkpoint.manifest import (
    DataPosition,
    Manifest,
    check_same_data,
    model_sha256,
    value_sha256,
)
from meshwright.executor.checkpoint.pieces import ShardedState
from meshwright.executor.checkpoint.read import checked_manifest
from meshwright.executor.data.source import TokenSource
from meshwright.executor.layer.groups import Communicator
from meshwright.executor.state.training_state import training_state
from meshwright.executor.train.described import DescribedModel
from meshwright.executor.train.request import RunRequest
from meshwright.executor.train.summary import numerics_fields
from meshwright.executor.train.trainer import Trainer
from meshwright.planner.plan import Plan

UPDATES = "num_updates"


def check_start(folder: Path, model: ModelSpec, *, resumes: bool) -> str:
    """What is to be told of checkpoints that are skipped, empty where none is.

    Raises `InputError` where there is nothing to resume, or where a new run would push out an older run's.
    """
    found = CheckpointFolder(path=folder).newest_whole()
    latest = found.path
    if not resumes:
        if latest is not None:
            problem = f"has {latest.name} of an earlier run; --resume goes on from it, another folder begins anew"
            raise InputError(str(folder), "", problem)
        return ""
    if latest is None:
        raise InputError(str(folder), "", "no checkpoint to resume; begin without --resume")
    checked_manifest(latest, model_sha256(model))
    if not found.skipped:
        return ""
    return f"skipped: {'; '.join(map(str, found.skipped))}; resumes from {latest.name}"


class RunCheckpoints:
    """Saves a trainer's state, and brings it back. All ranks call the same methods in the same order."""

    def __init__(
        self,
        request: RunRequest,
        plan: Plan,
        described: DescribedModel,
        trainer: Trainer,
        data: TokenSource,
        ranks: Communicator,
    ) -> None:
        assert request.checkpoint is not None  # asked for
        self._checkpointer = Checkpointer(CheckpointFolder(path=request.checkpoint), ranks)
        self._trainer = trainer
        model, workload = trainer.configuration.model, plan.workload
        self._manifest = Manifest(
            model=model.name,
            model_sha256=model_sha256(model),
            plan_sha256=value_sha256(plan),
            step=0,
            data=DataPosition(
                source=data.identity,
                seed=request.seed,
                global_batch=workload.global_batch,
                seq_len=workload.seq_len,
                next_step=0,
            ),
            extra=numerics_fields(described),
        )

    def save(self, num_steps: int) -> None:
        """Begin to save after so many steps; waits for the save before, and raises what went wrong with it."""
        manifest = self._at(num_steps)
        extra = {**manifest.extra, UPDATES: self._trainer.optimizer.num_updates}
        self._checkpointer.save(self._state(), msgspec.structs.replace(manifest, extra=extra))

    def resume(self) -> int:
        """Go on from the newest checkpoint; how many steps it has behind it."""
        folder = self._checkpointer.folder.path
        manifest = self._checkpointer.load(
            self._state(),
            self._manifest.model_sha256,
            passed_over=lambda words: sys.stderr.write(f"meshwright: run: {words}\n"),
        )
        if manifest is None:
            raise InputError(str(folder), "", "no checkpoint to resume; begin without --resume")
        check_same_data(manifest.data, self._at(manifest.step).data, str(folder))
        for name, is_now in self._manifest.extra.items():
            was = manifest.extra.get(name)
            if was != is_now:
                raise InputError(str(folder), name, f"{was}, but this run has {is_now}; --model takes a config.json's")
        self._trainer.optimizer.resume(int(manifest.extra[UPDATES]))
        self._trainer.model.state.spread()
        return manifest.step

    def finish(self) -> None:
        """Until the last save is whole; raises what went wrong with it."""
        self._checkpointer.wait()

    def _state(self) -> ShardedState:
        return training_state(self._trainer.model, self._trainer.optimizer)

    def _at(self, num_steps: int) -> Manifest:
        data = msgspec.structs.replace(self._manifest.data, next_step=num_steps)
        return msgspec.structs.replace(self._manifest, step=num_steps, data=data)
