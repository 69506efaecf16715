"""Published training runs as values: a CSV file read cell by cell, with an error that names the absurd one."""

from __future__ import annotations

import csv
import math
from pathlib import Path

from meshwright.costmodel.errors import InputError
from meshwright.costmodel.value import Value

PACKAGED = "training_throughput.csv"
DEFAULT_GPUS_PER_NODE = 8
DEFAULT_NETWORK_GBIT_PER_S = 400.0
"""What a row means that does not say: nodes of eight GPUs, 400 Gbit/s for each GPU."""


class TrainingRow(Value, frozen=True, kw_only=True):
    """One measured configuration. Degrees, batch and lengths count; `num_layers` 0 means the model's own.

    `sharding`, `recompute`, `sequence_parallel` and the free texts are the source's words; `virtual_stages` 0 and
    `shard_degree` 0 mean that it does not say.
    """

    id: str
    kind: str
    model: str
    num_layers: int
    gpu: str
    num_gpus: int
    gpus_per_node: int
    network_gbit_per_s: float
    precision: str
    fp8_recipe: str
    seq_len: int
    global_batch: int
    micro_batch: int
    tp: int
    sp: int
    cp: int
    pp: int
    virtual_stages: int
    ep: int
    etp: int
    dp: int
    sharding: str
    shard_degree: int
    sequence_parallel: str
    recompute: str
    recompute_detail: str
    framework: str
    framework_detail: str
    overlap: str
    routing: str
    notes: str
    tokens_per_s_per_gpu: float

    def __post_init__(self) -> None:
        """The degrees must multiply to the GPUs, and the batch must divide among data-parallel ranks."""
        product = self.tp * self.sp * self.cp * self.pp * self.dp
        if product != self.num_gpus:
            raise InputError(self.id, "gpus", f"{self.num_gpus} GPUs, but tp x sp x cp x pp x dp is {product}")
        if self.global_batch % (self.dp * self.micro_batch):
            raise InputError(
                self.id,
                "global_batch",
                f"{self.global_batch} is not a multiple of dp {self.dp} x micro_batch {self.micro_batch}",
            )

    @property
    def num_micro_batches(self) -> int:
        """Micro-batches of a data-parallel rank in a step."""
        return self.global_batch // (self.dp * self.micro_batch)

    @property
    def words(self) -> str:
        """All that the source prints about the software's settings."""
        return "; ".join((self.framework_detail, self.overlap, self.fp8_recipe, self.routing, self.notes))


class RowText(Value, frozen=True, kw_only=True):
    """A row as it stands in the file. `number` counts lines of the file from 1, the header included."""

    number: int
    cells: dict[str, str]

    @property
    def id(self) -> str:
        """The row's name, or its line where it has none."""
        return self.cells.get("id", "").strip() or f"line {self.number}"


OPTIONAL = ("fp8_recipe", "notes", "measured_memory_peak_gib")
TEXTS = ("kind", "model", "gpu", "precision", "fp8_recipe", "sharding", "sequence_parallel", "recompute")
FREE_TEXTS = ("recompute_detail", "framework", "framework_detail", "overlap", "routing", "notes")
COUNTS = {
    "gpus": ("num_gpus", None),
    "gpus_per_node": ("gpus_per_node", DEFAULT_GPUS_PER_NODE),
    "seq_len": ("seq_len", None),
    "global_batch": ("global_batch", None),
    "micro_batch": ("micro_batch", 1),
    "layers": ("num_layers", 0),
    "vp": ("virtual_stages", 0),
    "shard_degree": ("shard_degree", 0),
    **{axis: (axis, 1) for axis in ("tp", "sp", "cp", "pp", "ep", "etp", "dp")},
}
"""Column: field, and what a blank cell means (None: the cell must be filled)."""
MEASURED = "measured_tokens_per_s_per_gpu"
NETWORK = "nic_gbps_per_gpu"
MEMORY = "measured_memory_peak_gib"
COLUMNS = ("id", *TEXTS, *FREE_TEXTS, *COUNTS, NETWORK, MEASURED, MEMORY)
POSSIBLE_TOKENS_PER_S = (1e-3, 1e9)
"""Of one GPU, whatever the model."""


def packaged_path(name: str = PACKAGED) -> Path:
    """A file of the package's own data."""
    return Path(__file__).parent / "data" / name


def read_table(path: Path) -> tuple[RowText, ...]:
    """The rows of a CSV file; an `InputError` where it cannot be read, has no row or lacks a column."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, restkey="", restval="")
            header = reader.fieldnames or []
            missing = [name for name in COLUMNS if name not in header and name not in OPTIONAL]
            if missing:
                raise InputError(str(path), "header", f"lacks the column {', '.join(missing)}")
            table = tuple(RowText(number=reader.line_num, cells=_texts(cells)) for cells in reader)
    except (OSError, UnicodeDecodeError, csv.Error) as problem:
        raise InputError(str(path), "", f"cannot be read: {problem}") from problem
    if not table:
        raise InputError(str(path), "", "has no row; expected one measured configuration a row")
    return table


def _texts(cells: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in cells.items() if isinstance(value, str)}


def parse_row(text: RowText) -> TrainingRow:
    """A row's values; an `InputError` that names the first cell that is absurd."""
    fields: dict[str, object] = {"id": text.id}
    for name in (*TEXTS, *FREE_TEXTS):
        fields[name] = text.cells.get(name, "").strip()
    for column, (field, blank) in COUNTS.items():
        fields[field] = _count(text, column, blank)
    fields["network_gbit_per_s"] = _positive(text, NETWORK, DEFAULT_NETWORK_GBIT_PER_S)
    fields["tokens_per_s_per_gpu"] = _throughput(text)
    return TrainingRow(**fields)  # type: ignore[arg-type]  # each field was read as its type


def measured_of(text: RowText) -> float | None:
    """The measurement where it is a number, also of a row that is absurd otherwise."""
    try:
        return _throughput(text)
    except InputError:
        return None


def memory_of(text: RowText) -> float | None:
    """The printed peak memory in GiB; None where none is printed; an `InputError` where the cell is absurd."""
    return _positive(text, MEMORY, None) if text.cells.get(MEMORY, "").strip() else None


def _throughput(text: RowText) -> float:
    value = _positive(text, MEASURED, None)
    low, high = POSSIBLE_TOKENS_PER_S
    if not low <= value <= high:
        raise InputError(text.id, MEASURED, f"{value:g} tokens/s cannot be; expected {low:g} to {high:g}")
    return value


def _positive(text: RowText, column: str, blank: float | None) -> float:
    cell = text.cells.get(column, "").strip()
    if not cell and blank is not None:
        return blank
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0.0):
        raise InputError(text.id, column, f"{cell!r} is not a positive number")
    return value


def _count(text: RowText, column: str, blank: int | None) -> int:
    value = _positive(text, column, None if blank is None else float(blank or 1))
    if value != int(value):
        raise InputError(text.id, column, f"{text.cells[column]!r} is not a whole number")
    return int(value) if text.cells.get(column, "").strip() or blank is None else blank
