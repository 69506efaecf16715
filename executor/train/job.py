"""One rank's part of a run, from the first weights to the last checkpoint."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from msgspec.structs import replace

from meshwright.costmodel.errors import InputError
from meshwright.executor.emulate.emulation import Emulation
from meshwright.executor.observe.lookout import Lookout
from meshwright.executor.observe.whereabouts import Whereabouts
from meshwright.executor.ranks.host_group import host_group
from meshwright.executor.train.choices import training_choices
from meshwright.executor.train.event_log import EventLog
from meshwright.executor.train.gathering import gather_whole, weight_pieces
from meshwright.executor.train.inputs import RunInputs
from meshwright.executor.train.loading import load_weights
from meshwright.executor.train.operator_times import (
    OperatorTimes,
    alike_parts,
    gather_medians,
    operator_times,
    rank_medians,
)
from meshwright.executor.train.record import (
    RUN_FILE,
    TRACE_FILE,
    RunRecord,
    StepLog,
    StepRecord,
    begin_anew,
    make_folder,
    recorded_steps,
    write_run,
)
from meshwright.executor.train.request import RunRequest
from meshwright.executor.train.run_trace import write_run_trace
from meshwright.executor.train.stage_times import gather_times, rank_times
from meshwright.executor.train.stopping import StoppedError, StopSignal
from meshwright.executor.train.summary import run_record, stage_peaks, step_record
from meshwright.executor.train.supervision import is_supervised
from meshwright.executor.train.trainer import Trainer
from meshwright.executor.weights.export_weights import export_weights
from meshwright.executor.weights.model_parameters import model_shapes
from meshwright.planner.plan import Plan
from meshwright.planner.plan_conversion import configuration_of

if TYPE_CHECKING:
    from meshwright.executor.train.run_checkpoints import RunCheckpoints

Told = Callable[[StepRecord], None]


class Job:
    """A rank's run; all ranks make one and `run` it. Rank 0 writes the records and tells of every step."""

    def __init__(
        self,
        request: RunRequest,
        plan: Plan,
        inputs: RunInputs,
        rank: int,
        device: torch.device,
        told: Told,
        whereabouts: Whereabouts,
        emulation: Emulation | None = None,
    ) -> None:
        self._request = request
        self._plan = plan
        self._inputs = inputs
        self._rank = rank
        self._device = device
        self._told = told
        self._emulation = emulation
        choices = training_choices(request, inputs.described.numerics, device)
        self._trainer = Trainer(configuration_of(plan), rank, choices, inputs.data, whereabouts)
        self._host = host_group()
        self._checkpoints: RunCheckpoints | None = None
        if request.checkpoint is not None:
            from meshwright.executor.train.run_checkpoints import (
                RunCheckpoints,  # torch's part takes a second to import
            )

            self._checkpoints = RunCheckpoints(request, plan, inputs.described, self._trainer, inputs.data, self._host)
        self._saved_steps = -1

    def run(self) -> RunRecord | None:
        """Train; the summary on rank 0, if there was a step. Raises `StoppedError` if asked to end, all saved."""
        with self._looked_after():
            return self._run()

    @contextmanager
    def _looked_after(self) -> Iterator[None]:
        """Somebody looks whether the ranks get on."""
        whereabouts, timeout_s = self._trainer.watch.whereabouts, self._request.timeout_s

        def tell() -> None:
            if not is_supervised():
                problem = f"waits for {timeout_s:g} s in {whereabouts.position}: others do not come (--timeout)"
                sys.stderr.write(f"meshwright: run: rank {self._rank} {problem}\n")

        lookout = Lookout(
            whereabouts,
            self._trainer.watch.device_at,
            timeout_s=timeout_s,
            parent=os.getppid() if is_supervised() else 0,
            hung=tell,
        )
        lookout.start()
        try:
            yield
        finally:
            lookout.close()

    def _run(self) -> RunRecord | None:
        first_step = self._begin()
        stop = None if self._checkpoints is None else StopSignal()
        try:
            records = [] if self._is_done(first_step) else self._train(first_step, stop)
            summary = self._summary(records)
        finally:
            if stop is not None:
                stop.close()
        num_steps = first_step + len(records)
        stopped = num_steps < self._request.num_steps
        if self._request.export is not None and not stopped:
            self._export()
        if records and self._request.profile:
            self._write_trace()
        if self._trainer.communicators.world.size > 1:
            dist.barrier()  # a rank that leaves while others still receive ends them by gloo's own exception
        if stopped:
            asked_by = stop.number if stop is not None else None
            raise StoppedError(
                asked_by or signal.SIGTERM,  # another rank alone knows it
                f"after {num_steps} of {self._request.num_steps} steps; {self._request.checkpoint} has them,"
                " --resume goes on",
            )
        return summary

    def _begin(self) -> int:
        """The weights to begin with; the first step to take."""
        self._trainer.watch.whereabouts.do("first weights", waits=False)
        if self._request.resume and self._checkpoints is not None:
            self._saved_steps = self._checkpoints.resume()
            return self._saved_steps
        if self._inputs.weights is not None:
            load_weights(self._trainer.model, self._inputs.weights)
        return 0

    def _is_done(self, first_step: int) -> bool:
        """Whether a resumed run has all its steps behind it: said once, and its records stay as they are."""
        wanted = self._request.num_steps
        if first_step < max(1, wanted):
            return False
        if self._rank == 0:
            done = f"{first_step} step is" if first_step == 1 else f"{first_step} steps are"
            sys.stderr.write(f"meshwright: run: {done} done, --steps is {wanted}: nothing to train\n")
        return True

    def _train(self, first_step: int, stop: StopSignal | None) -> list[StepRecord]:
        records = []
        try:
            with self._told_of(first_step) as tell:
                for record in self._steps(first_step, stop):
                    records.append(record)
                    tell(record)
            self._save(first_step + len(records))
        finally:
            if self._checkpoints is not None:
                self._checkpoints.finish()
        return records

    @contextmanager
    def _told_of(self, first_step: int) -> Iterator[Told]:
        """What is done with each step's record: on rank 0 it is written and shown.

        What an earlier run has left there goes only now, and stays where nothing is trained.
        """
        if self._rank > 0 or not self._request.num_steps:
            yield lambda _: None
            return
        folder = self._request.output
        make_folder(folder)
        begin_anew(folder, (RUN_FILE,) if first_step else (RUN_FILE, TRACE_FILE))
        with ExitStack() as stack:
            tellers: list[Told] = [stack.enter_context(StepLog(folder, first_step)).add]
            if self._request.tensorboard:
                tellers.append(stack.enter_context(closing(EventLog(folder, first_step))).add)
            tellers.append(self._told)

            def tell(record: StepRecord) -> None:
                for teller in tellers:
                    teller(record)

            yield tell

    def _steps(self, first_step: int, stop: StopSignal | None) -> Iterator[StepRecord]:
        before_s, every = time.perf_counter(), self._request.save_every
        request = self._request
        timed = recorded_steps(first_step, request.num_steps, request.time_operators, at_least=int(request.profile))
        for number in range(first_step, self._request.num_steps):
            records = number in timed
            result = self._trainer.step(number, stop=stop is not None and stop.asked, records=records)
            now_s = time.perf_counter()
            yield step_record(number, result, self._plan, now_s - before_s, self._device, recorded=records)
            before_s = now_s
            if result.stop_asked:
                return
            if every and (number + 1) % every == 0:
                self._save(number + 1)

    def _save(self, num_steps: int) -> None:
        if self._checkpoints is not None and num_steps != self._saved_steps:
            self._trainer.watch.whereabouts.do("checkpoint", waits=False)
            self._checkpoints.save(num_steps)
            self._saved_steps = num_steps

    def _summary(self, records: list[StepRecord]) -> RunRecord | None:
        self._trainer.watch.whereabouts.do("summary", waits=False)
        place, world = self._trainer.communicators.place, self._trainer.communicators.world
        peaks = stage_peaks(place.stage, place.mesh.pp, self._device, world)
        if not records:
            return None
        times = gather_times(rank_times(self._rank, place.stage, self._trainer.watch.stopwatch.steps()), world)
        operators = self._operator_times()
        if self._rank > 0:
            return None
        summary = run_record(
            self._request, self._plan, self._trainer, self._inputs.described, records, peaks, times, operators
        )
        if self._emulation is not None:
            summary = replace(summary, emulation=self._emulation.record)
        write_run(summary, self._request.output)
        return summary

    def _write_trace(self) -> None:
        """Behind all that is worth more; a disk that is full by then does not make the run one that has failed."""
        step, place = self._trainer.watch.latest, self._trainer.communicators.place
        if step is None:
            return
        try:
            write_run_trace(step, self._trainer.configuration, place, self._host, self._request.output)
        except InputError as error:
            sys.stderr.write(f"meshwright: run: {error}; all else is written\n")
            with suppress(OSError):
                (self._request.output / TRACE_FILE).unlink(missing_ok=True)

    def _operator_times(self) -> tuple[OperatorTimes, ...]:
        """Of all ranks on the first; a collective."""
        emulation, samples = self._emulation, self._trainer.watch.samples
        configuration = self._trainer.configuration if emulation is None else emulation.full
        parts = alike_parts(configuration) if emulation is None else emulation.parts
        ranks = gather_medians(rank_medians(samples, parts), self._host)
        if self._rank > 0:
            return ()
        found = operator_times(configuration, ranks)
        return found if emulation is None else emulation.of_the_plan(found)

    def _export(self) -> None:
        """Write the weights as a Hugging Face folder; the first rank does, others give it their parts."""
        assert self._request.export is not None  # asked for
        model, dtype = self._trainer.configuration.model, self._trainer.choices.numerics.dtype
        gathered = gather_whole(weight_pieces(self._trainer.model), list(model_shapes(model)), self._host)
        try:
            if self._rank == 0:
                export_weights(
                    gathered,
                    self._request.export,
                    model,
                    self._inputs.described.numerics,
                    max_length=self._inputs.max_length(self._plan),
                    companions=self._inputs.companions,
                    dtype=dtype,
                )
        except OSError as error:
            raise InputError(str(self._request.export), "", f"cannot be written: {error.strerror or error}") from error
        finally:
            for _ in gathered:  # other ranks do not know whether the first has failed: it takes what they send
                pass
