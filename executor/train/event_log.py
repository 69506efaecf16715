"""The figures of steps as TensorBoard's event files, beside steps.jsonl."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from meshwright.costmodel.errors import InputError
from meshwright.executor.train.record import StepRecord

FIGURES = (
    "loss",
    "gradient_norm",
    "learning_rate",
    "step_time_s",
    "tokens_per_s",
    "mfu",
    "expert_load",
    "aux_loss",
    "z_loss",
    "dropped_fraction",
)
FOLDER = "tensorboard"


def check_tensorboard() -> None:
    """Raise `InputError` where event files cannot be written."""
    if find_spec("tensorboard") is None:
        raise InputError("--tensorboard", "", "needs the package tensorboard: pip install tensorboard")


class EventLog:
    """Writes `tensorboard/` in a folder. `first_step`: where the run goes on; what was written behind it is hidden."""

    def __init__(self, folder: Path, first_step: int = 0) -> None:
        check_tensorboard()
        from torch.utils.tensorboard.writer import SummaryWriter

        self._writer = SummaryWriter(str(folder / FOLDER), purge_step=first_step or None)

    def add(self, record: StepRecord) -> None:
        """The figures of a step; those that are not known are left out."""
        for name in FIGURES:
            value = getattr(record, name)
            if value is not None:
                self._writer.add_scalar(name, value, record.step)
        self._writer.flush()

    def close(self) -> None:
        """Nothing more comes."""
        self._writer.close()
