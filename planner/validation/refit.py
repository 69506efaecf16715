"""Fits the packaged framework descriptions anew and writes them: `meshwright validate --fit`."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from meshwright.costmodel import runtime as runtime_module
from meshwright.costmodel.errors import InputError
from meshwright.hardware_profiles import load_cluster
from meshwright.planner.plan import content_hash
from meshwright.planner.validation.cross_validation import Progress, by_framework, fit_framework
from meshwright.planner.validation.fit_record import PACKAGED, FitRecord, FrameworkFit, fit_record
from meshwright.planner.validation.predictor import described
from meshwright.planner.validation.residuals import write_residuals
from meshwright.planner.validation.rows import packaged_path, read_table
from meshwright.planner.validation.run_description import CLUSTERS
from meshwright.planner.validation.usable import usable_rows
from meshwright.planner.validation.validation import validate

TABLES = ("training_throughput.csv", "a100_multi_node.csv")
SOURCE = "meshwright validate --fit, on planner/validation/data/" + " and ".join(TABLES)


def refit(progress: Progress = lambda _: None) -> FitRecord:
    """Fit all frameworks to the packaged tables; write the record, the descriptions and the residuals."""
    rows = usable_rows([text for name in TABLES for text in read_table(packaged_path(name))])
    fits = tuple(fit_framework(name, chosen, progress) for name, chosen in by_framework(rows).items())
    record = FitRecord(source=SOURCE, profiles=profile_hashes(), frameworks=fits)
    for fit in fits:
        write_values(fit)
    write_json(packaged_path(PACKAGED), msgspec.to_builtins(record))
    fit_record.cache_clear()
    runtime_module.load_runtime.cache_clear()
    described.cache_clear()
    write_residuals(validate(read_table(packaged_path(TABLES[0]))))
    return record


@lru_cache(maxsize=1)
def profile_hashes() -> dict[str, str]:
    """The profiles that predictions of the packaged rows rest on."""
    return {name: content_hash(load_cluster(name).profile) for name in CLUSTERS.values()}


def write_values(fit: FrameworkFit) -> None:
    """The fitted values in place of those in the framework's description."""
    path = Path(runtime_module.__file__).parent / "runtimes" / f"{fit.framework}.json"
    fields: dict[str, Any] = msgspec.json.decode(path.read_bytes())
    write_json(path, {**fields, **fit.values})


def write_json(path: Path, value: object) -> None:
    """A JSON file of one member a line, there in full or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
        temporary.replace(path)
    except OSError as problem:
        temporary.unlink(missing_ok=True)
        raise InputError(str(path), "", f"cannot be written: {problem.strerror}") from problem
