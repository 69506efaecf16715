"""A measured load of the experts from a file: shares of the routed rows, one for each expert.

CSV: a header with a column `share`, one row an expert; a column `expert` gives their numbers, 0 to N - 1 in any order.
JSON: a list of shares, or an object whose field `shares` is one.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

from meshwright.costmodel.errors import InputError
from meshwright.costmodel.expert_load import HistogramLoad

EXPECTED = "expected a CSV file with a column 'share', or JSON with a list 'shares'"


def read_histogram(path: Path) -> HistogramLoad:
    """The load in a file. Raises `InputError` that names the file, the field and what was expected."""
    text = _text(path)
    shares = _json_shares(text, str(path)) if path.suffix.lower() == ".json" else _csv_shares(text, str(path))
    if not shares:
        raise InputError(str(path), "shares", f"none given; {EXPECTED}")
    return HistogramLoad(shares=tuple(shares), source=str(path))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(str(path), "", f"no such file; {EXPECTED}") from error
    except (OSError, ValueError) as error:
        raise InputError(str(path), "", f"cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _json_shares(text: str, where: str) -> list[float]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(where, "", f"not JSON: {error}; {EXPECTED}") from error
    values = data.get("shares") if isinstance(data, dict) else data
    if not isinstance(values, list):
        raise InputError(where, "shares", f"is not a list; {EXPECTED}")
    for index, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(where, f"shares[{index}]", f"{value!r:.40} is not a number")
    return [float(value) for value in values]


def _csv_shares(text: str, where: str) -> list[float]:
    reader = csv.DictReader(text.splitlines(), skipinitialspace=True)
    columns = reader.fieldnames or ()
    if "share" not in columns:
        raise InputError(where, "share", f"no such column among {', '.join(columns) or 'none'}; {EXPECTED}")
    rows = list(reader)
    shares = [_number(row["share"], where, f"line {line}: share") for line, row in enumerate(rows, start=2)]
    if "expert" not in columns:
        return shares
    numbers = [_expert(row["expert"], len(rows), where, line) for line, row in enumerate(rows, start=2)]
    if len(set(numbers)) < len(numbers):
        twice = next(number for number in numbers if numbers.count(number) > 1)
        raise InputError(where, "expert", f"{twice} is given twice")
    return [share for _, share in sorted(zip(numbers, shares, strict=True))]


def _number(text: str | None, where: str, field: str) -> float:
    try:
        return float(text or "")
    except ValueError as error:
        raise InputError(where, field, f"{text!r} is not a number") from error


def _expert(text: str | None, num_experts: int, where: str, line: int) -> int:
    if not text or not text.strip().isdecimal() or int(text) >= num_experts:
        raise InputError(where, f"line {line}: expert", f"{text!r} is not a whole number from 0 to {num_experts - 1}")
    return int(text)
