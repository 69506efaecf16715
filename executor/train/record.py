"""What a run leaves behind: a line for every step, and a summary that sets measured beside predicted."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from statistics import median
from types import TracebackType

import msgspec

from meshwright.costmodel.errors import InputError
from meshwright.costmodel.strategy import Mesh
from meshwright.costmodel.value import Value
from meshwright.executor.emulate.emulation import EmulationRecord
from meshwright.executor.stopwatch import StepPart
from meshwright.executor.train.balancing import Balancing
from meshwright.executor.train.operator_times import OperatorTimes
from meshwright.executor.train.request import ExchangedRows
from meshwright.kernels.dispatch import Choice
from meshwright.planner.serialise import write_whole

STEPS_FILE, RUN_FILE, TRACE_FILE = "steps.jsonl", "run.json", "trace.json"
SETTLING_STEPS = 3
"""Steps at the begin that are left out of the measured step time where there are enough: memory is allocated, kernels
are loaded and chosen."""


class StepRecord(Value, frozen=True, kw_only=True):
    """One step. `mfu` None where the peak of the device is not known; `expert_load` 0 without experts.

    `loss` is that of the tokens alone; `aux_loss` and `z_loss` are trained for beside it, with their coefficients.
    `dropped_fraction`: choices of experts beyond their capacity over all. `recorded`: its operators were timed, which
    slows a step; it does not count for the measured step time. `repeated`: ranks had more rows to exchange than room
    for, and the step was done once more.
    """

    step: int
    loss: float
    gradient_norm: float
    learning_rate: float
    step_time_s: float
    tokens_per_s: float
    mfu: float | None
    expert_load: float
    peak_memory_bytes: int
    skipped: bool
    repeated: bool = False
    recorded: bool = False
    aux_loss: float = 0.0
    z_loss: float = 0.0
    dropped_fraction: float = 0.0


class NumericsRecord(Value, frozen=True, kw_only=True):
    """What shapes do not say of a model, and where it comes from."""

    source: str
    norm_epsilon: float
    rope_theta: float
    rope_scaling: str
    normalize_gates: bool
    routed_scale: float


class StageTimes(Value, frozen=True, kw_only=True):
    """Seconds a step of a device of the pipeline, by part: the mean of its ranks, and what was predicted.

    Predicted parts are whole, also where they overlap, and waits the rest of the predicted step, if there is one.
    Collectives, and what is exposed of them, lie inside the passes.
    """

    stage: int
    measured_s: dict[StepPart, float]
    predicted_s: dict[StepPart, float]


class AsRun(Value, frozen=True, kw_only=True):
    """A prediction for the executor as it runs, beside that of the plan, whose runtime does more.

    `runtime`: the name of the description. `stages`: seconds a step by part, of each device of the pipeline, as in
    `StageTimes.predicted_s`.
    """

    runtime: str
    step_time_s: float
    stages: tuple[dict[StepPart, float], ...]


class SlowRank(Value, frozen=True, kw_only=True):
    """A rank whose compute takes longer than that of its stage. The load of its experts may be the reason."""

    rank: int
    host: str
    stage: int
    compute_s: float
    median_s: float


class RunRecord(Value, frozen=True, kw_only=True):
    """A run. `comparable`: measured and predicted are of the same type of GPU; `balancing`: what was asked for.

    `step_time_s` is the median step behind the first few, steps whose operators were timed, and those that were done
    twice (`repeated_steps`), left out where others are; memory is that of
    the fullest rank of each pipeline stage; `kernels` is what ran each custom operation on rank 0, CUDA kernel or
    reference, how often, and why; `one_stream`: operators of layers ran one after another whatever the plan overlaps,
    as asked or on the CPU; `operators` the measured and predicted times of those operators that were timed.
    `emulation`: this was a part of another plan, of which `operators` are; all else is of what ran.
    """

    plan: str
    model: str
    model_hash: str
    numerics: NumericsRecord
    data: str
    mesh: Mesh
    device: str
    torch: str
    format: str
    seed: int
    exchanged_rows: ExchangedRows
    first_step: int
    num_steps: int
    skipped_steps: int
    repeated_steps: int
    balancing: Balancing
    first_loss: float
    last_loss: float
    step_time_s: float
    predicted_step_time_s: float
    predicted_step_time_interval_s: tuple[float, float]
    predicted_as_run: AsRun
    comparable: bool
    tokens_per_s: float
    predicted_tokens_per_s: float
    mfu: float | None
    predicted_mfu: float
    peak_memory_bytes: tuple[int, ...]
    predicted_peak_memory_bytes: tuple[float, ...]
    stages: tuple[StageTimes, ...]
    slow_ranks: tuple[SlowRank, ...]
    kernels: tuple[Choice, ...]
    one_stream: bool
    operators: tuple[OperatorTimes, ...]
    emulation: EmulationRecord | None = None

    @property
    def step_time_error(self) -> float:
        """Predicted over measured, less 1."""
        return self.predicted_step_time_s / self.step_time_s - 1.0

    @property
    def as_run_error(self) -> float:
        """As `step_time_error`, of the prediction for the executor as it runs."""
        return self.predicted_as_run.step_time_s / self.step_time_s - 1.0


def recorded_steps(first_step: int, num_steps: int, num_asked: int, *, at_least: int = 0) -> range:
    """The steps whose operators are timed: the last ones, as many as asked for if as many settled ones come before.

    >>> recorded_steps(0, 20, 3), recorded_steps(0, 5, 3), recorded_steps(10, 12, 3)
    (range(17, 20), range(4, 5), range(12, 12))
    >>> recorded_steps(10, 12, 3, at_least=1)
    range(11, 12)
    """
    count = max(at_least, min(num_asked, (num_steps - first_step - SETTLING_STEPS) // 2))
    return range(max(first_step, num_steps - count), num_steps)


def settled_step_time_s(times_s: list[float]) -> float:
    """The median of the steps behind the first few.

    >>> settled_step_time_s([9.0, 9.0, 9.0, 1.0, 2.0, 3.0]), settled_step_time_s([4.0, 2.0])
    (2.0, 3.0)
    """
    return median(times_s[SETTLING_STEPS:] or times_s)


class StepLog:
    """Appends steps to `steps.jsonl` of a folder as they end.

    `first_step`: where the run goes on. Lines of earlier steps stay; those behind, and what is no whole line, go.
    """

    def __init__(self, folder: Path, first_step: int = 0) -> None:
        self.path = folder / STEPS_FILE
        try:
            kept = _lines_before(self.path, first_step)
            write_whole(b"".join(kept), self.path)
            self._file = self.path.open("ab", buffering=0)  # nothing is left to be written by `close`
        except OSError as error:
            raise self._unwritten(error) from error

    def __enter__(self) -> StepLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, record: StepRecord) -> None:
        """Write a line, at once."""
        try:
            line = msgspec.json.encode(record) + b"\n"
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            raise self._unwritten(error) from error

    def _unwritten(self, error: OSError) -> InputError:
        return InputError(str(self.path), "", f"cannot be written: {error.strerror}")


def _lines_before(path: Path, first_step: int) -> list[bytes]:
    """The lines of the steps before one."""
    if first_step == 0 or not path.is_file():
        return []
    kept = []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            record = msgspec.json.decode(line, type=StepRecord)
        except msgspec.MsgspecError:
            break
        if record.step >= first_step or not line.endswith(b"\n"):
            break
        kept.append(line)
    return kept


def make_folder(folder: Path) -> None:
    """The run's folder, made where it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(str(folder), "", f"cannot be made: {error.strerror}") from error


def begin_anew(folder: Path, names: Iterable[str]) -> None:
    """Remove records of an earlier run from a folder, so that nothing of it is taken for a new one's."""
    for name in names:
        try:
            (folder / name).unlink(missing_ok=True)
        except OSError as error:
            problem = f"of an earlier run, cannot be removed: {error.strerror}"
            raise InputError(str(folder / name), "", problem) from error


def write_run(record: RunRecord, folder: Path) -> Path:
    """Write `run.json` whole."""
    path = folder / RUN_FILE
    write_whole(msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n", path)
    return path
