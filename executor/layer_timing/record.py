"""What a timing run leaves: a small JSON file, one object per layer."""

from __future__ import annotations

from pathlib import Path

import msgspec

from meshwright.costmodel.hardware import Basis
from meshwright.costmodel.program.operators import Pass
from meshwright.costmodel.strategy import Dispatch
from meshwright.costmodel.value import Value
from meshwright.kernels.checking.spread import Spread
from meshwright.kernels.dispatch import Choice
from meshwright.planner.dated_record import read_version
from meshwright.planner.serialise import write_whole

LAYER_TIMES_SCHEMA_VERSION = 1


class OperatorTimes(Value, frozen=True, kw_only=True):
    """One operator over all passes: on the device, and on the host that issues it. `kind` is that of its work."""

    name: str
    module: str
    phase: Pass
    kind: str
    measured: Spread
    predicted_s: float
    basis: Basis
    host_measured_s: float
    host_predicted_s: float

    @property
    def error(self) -> float:
        """Predicted over measured, less one."""
        return self.predicted_s / self.measured.median_s - 1.0


class PassTimes(Value, frozen=True, kw_only=True):
    """A whole pass as it runs layer after layer, host included; `operators_s` are its operators' medians, summed.

    `predicted_host_s`: the part of the prediction in which the device waits for the host.
    """

    measured: Spread
    operators_s: float
    host_measured_s: float
    predicted_s: float
    predicted_host_s: float

    @property
    def error(self) -> float:
        """Predicted over measured, less one."""
        return self.predicted_s / self.measured.median_s - 1.0


class OverlappedPass(Value, frozen=True, kw_only=True):
    """A whole pass on several streams, in an order found for it: as `PassTimes`, but nothing of it is timed alone."""

    measured: Spread
    predicted_s: float

    @property
    def error(self) -> float:
        """Predicted over measured, less one."""
        return self.predicted_s / self.measured.median_s - 1.0


class LayerTimes(Value, frozen=True, kw_only=True):
    """One layer under one strategy on one rank, the first.

    `num_experts_of_model`: more than `num_experts` where the layer was cut to fit, 0 for a dense one. `output_error`:
    of what the layer adds to its input, against the float32 reference, relative, in the Frobenius norm. `host_reads`:
    times that one forward waited for the device to tell the host something. The overlapped passes are there if they
    were asked for; all else is of one stream.
    """

    model: str
    strategy: str
    tp: int
    sp: int
    ffn_tp: int
    ep: int
    dispatch: Dispatch
    seq_len: int
    micro_batch: int
    num_experts: int
    num_experts_of_model: int
    balanced_routing: bool
    attention_kernel: str
    fused_kernels: bool
    parameters: int
    passes: int
    output_error: float
    host_reads: int
    peak_memory_bytes: int
    forward: PassTimes
    backward: PassTimes
    operators: tuple[OperatorTimes, ...]
    overlapped_forward: OverlappedPass | None = None
    overlapped_backward: OverlappedPass | None = None


class LayerTimesRecord(Value, frozen=True, kw_only=True):
    """A run: the machine, the command, the profile that predicts, the layers.

    kernels: what ran custom operations, CUDA kernel or reference; empty in records from before there were any.
    """

    schema_version: int
    machine: dict[str, str]
    date: str
    command: str
    profile: str
    layers: tuple[LayerTimes, ...]
    kernels: tuple[Choice, ...] = ()


def write_record(path: Path, record: LayerTimesRecord) -> None:
    """Write the record, seconds to four digits, an operator a line."""
    encoded = msgspec.json.encode(_rounded(msgspec.to_builtins(record)))
    for begin in (b'{"model":', b'"forward":{', b'"backward":{', b'"operators":', b'{"name":'):
        encoded = encoded.replace(begin, b"\n" + begin)
    write_whole(encoded + b"\n", path)


def read_record(path: Path) -> LayerTimesRecord:
    """A record from its file; raises `InputError` where it is none."""
    return read_version(path, LayerTimesRecord, LAYER_TIMES_SCHEMA_VERSION)


def _rounded(value: object) -> object:
    match value:
        case float():
            return float(f"{value:.4g}")
        case dict():
            return {key: _rounded(entry) for key, entry in value.items()}
        case list() | tuple():
            return [_rounded(entry) for entry in value]
        case _:
            return value
