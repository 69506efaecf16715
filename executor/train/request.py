"""What a run is asked for beside its plan."""

from __future__ import annotations

import math
from enum import StrEnum
from pathlib import Path

from meshwright.costmodel.errors import InputError
from meshwright.costmodel.value import Value
from meshwright.executor.state.learning_rate import Decay
from meshwright.executor.train.balancing import Balancing, check_routed

MOST_TIMEOUT_S = 1e9


class DeviceChoice(StrEnum):
    """Where ranks compute. AUTO: on GPUs where there are any."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Format(StrEnum):
    """The format of weights and activations. AUTO: bfloat16 on GPUs, float32 on the CPU."""

    AUTO = "auto"
    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"
    FLOAT64 = "float64"


class ExchangedRows(StrEnum):
    """How many rows ranks exchange.

    EXACT: those that there are, for which the host waits once a layer. ROOM: as many as there lately were and some
    more, so that no host waits.
    """

    EXACT = "exact"
    ROOM = "room"


class RunRequest(Value, frozen=True, kw_only=True):
    """A plan and how long, where, on what and how fast to train it.

    `data`: a synthetic stream (uniform, zipf, markov) or the path of a token file. `model`: a config.json, or its
    folder, with what the plan does not say of the model. `load`: a Hugging Face folder of the weights to begin with,
    unless it resumes; `export`: where such a folder is written in the end. `checkpoint`: the folder of the run's
    checkpoints, one every `save_every` steps (0: none) and one at the end; with `resume` it goes on from the newest.
    A run takes steps until it has `num_steps`, those before a checkpoint included. `balanced`: tokens go to experts
    in turn, whatever the router says. `skip_not_finite`: steps whose loss or norm is not finite are left out instead
    of ending the run. `tensorboard`: event files are written, too. `balancing`: what is done for balanced experts.
    `one_stream`: operators of layers run one after another, for comparison with what the plan overlaps.
    `time_operators`: steps at the end whose operators are timed, fewer in a short run; `profile`: the last step is one
    of them and is written as a trace. `emulate`: of a plan for more ranks than there are, one layer of each kind
    (layers) or a virtual stage (its number) runs on those that there are. `exchanged_rows`: how many go between ranks
    that share experts. `timeout_s`: how long ranks wait for one that
    does not come before the run ends.
    """

    plan: Path
    output: Path
    num_steps: int
    device: DeviceChoice = DeviceChoice.AUTO
    format: Format = Format.AUTO
    data: str = "markov"
    model: Path | None = None
    load: Path | None = None
    export: Path | None = None
    checkpoint: Path | None = None
    save_every: int = 0
    resume: bool = False
    seed: int = 0
    learning_rate: float = 3e-4
    warm_up_steps: int = 0
    decay: Decay = Decay.COSINE
    weight_decay: float = 0.1
    max_norm: float = 1.0
    balanced: bool = False
    skip_not_finite: bool = False
    tensorboard: bool = False
    one_stream: bool = False
    time_operators: int = 3
    profile: bool = False
    timeout_s: float = 600.0
    emulate: str = ""
    exchanged_rows: ExchangedRows = ExchangedRows.EXACT
    balancing: Balancing = Balancing()

    def __post_init__(self) -> None:
        self._check("--steps", self.num_steps >= 0, self.num_steps, "a number >= 0")
        self._check("--save-every", self.save_every >= 0, self.save_every, "a number >= 0")
        self._check("--time-operators", self.time_operators >= 0, self.time_operators, "a number >= 0")
        lasts = 0 < self.timeout_s <= MOST_TIMEOUT_S
        self._check("--timeout", lasts, self.timeout_s, f"a positive number of seconds, at most {MOST_TIMEOUT_S:g}")
        for option, value in self._of_whole_models.items():
            if self.emulate and value is not None:
                raise InputError(option, "", "does not go with --emulate, whose model is a part of the plan's")
        if self.checkpoint is None and (self.save_every or self.resume):
            option = "--resume" if self.resume else "--save-every"
            raise InputError(option, "", "needs --checkpoint DIR")
        self._check("--learning-rate", 0 < self.learning_rate < math.inf, self.learning_rate, "a positive number")
        self._check("--warm-up-steps", self.warm_up_steps >= 0, self.warm_up_steps, "a number >= 0")
        self._check("--weight-decay", 0 <= self.weight_decay < math.inf, self.weight_decay, "a number >= 0")
        self._check("--clip", self.max_norm > 0, self.max_norm, "a positive number")
        if self.balanced:
            check_routed(self.balancing)

    @property
    def _of_whole_models(self) -> dict[str, Path | None]:
        return {"--load": self.load, "--export": self.export, "--checkpoint": self.checkpoint}

    def _check(self, option: str, holds: bool, value: float, expected: str) -> None:
        if not holds:
            raise InputError(option, "", f"{value} is not {expected}")
