"""Quantities as people write them ("400 Gbit/s", "80 GB") to SI numbers, and SI numbers to short text."""

from __future__ import annotations

import math
import re
from enum import StrEnum

from meshwright.costmodel.errors import InputError


class Dimension(StrEnum):
    """What a quantity measures; the value is the example that an error message shows."""

    BYTES = "80 GB"
    BYTES_PER_S = "400 Gbit/s or 450 GB/s"
    SECONDS = "5 us"
    FLOPS_PER_S = "989 TFLOP/s"


_DECIMAL = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}


def _units() -> dict[Dimension, dict[str, float]]:
    bytes_units = {f"{prefix}B": factor for prefix, factor in (_DECIMAL | _BINARY).items()}
    bit_rates = {f"{prefix}bit/s": factor / 8 for prefix, factor in _DECIMAL.items()}
    times = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "days": 86400.0}
    return {
        Dimension.BYTES: bytes_units,
        Dimension.BYTES_PER_S: {f"{unit}/s": factor for unit, factor in bytes_units.items()} | bit_rates,
        Dimension.SECONDS: times,
        Dimension.FLOPS_PER_S: {f"{prefix}FLOP/s": factor for prefix, factor in _DECIMAL.items()},
    }


UNITS = _units()
_QUANTITY = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([^\d\s].*?)\s*")


def parse_quantity(
    text: object, dimension: Dimension, *, where: str, field: str, error: type[InputError] = InputError
) -> float:
    """The SI value of a positive quantity with its unit; anything else is an `error` that names file and field.

    >>> parse_quantity("400 Gbit/s", Dimension.BYTES_PER_S, where="cluster.yaml", field="network") / 1e9
    50.0
    >>> parse_quantity("80 GiB", Dimension.BYTES, where="cluster.yaml", field="memory")
    85899345920.0
    """
    match = _QUANTITY.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise error(where, field, f"{text!r} is not a number with a unit, as in {dimension.value}")
    number, unit = float(match[1]), match[2]
    if unit not in UNITS[dimension]:
        raise error(where, field, f"unit {unit!r} of {text!r} is not one of {', '.join(UNITS[dimension])}")
    value = number * UNITS[dimension][unit]
    if not (math.isfinite(value) and value > 0.0):
        raise error(where, field, f"{text!r} is not a positive finite quantity, as in {dimension.value}")
    return value


def _scaled(value: float, unit: str, base: float = 1000.0, prefixes: str = "kMGTPE", infix: str = "") -> str:
    if not math.isfinite(value):
        return f"{value} {unit}"
    prefix, number = "", float(value)
    for letter in prefixes:
        if abs(number) < base - 0.5:
            break
        prefix, number = letter, number / base
    return f"{_three_digits(number)} {prefix}{infix if prefix else ''}{unit}"


def format_bytes(value: float) -> str:
    """Bytes in binary units, three digits.

    >>> format_bytes(80 * 2**30), format_bytes(512), format_bytes(1.5 * 2**20)
    ('80 GiB', '512 B', '1.5 MiB')
    """
    return _scaled(value, "B", base=1024.0, prefixes="KMGTPE", infix="i")


def format_bandwidth(value: float) -> str:
    """Bytes a second in decimal units, three digits.

    >>> format_bandwidth(450e9)
    '450 GB/s'
    """
    return _scaled(value, "B/s")


def format_flops(value: float) -> str:
    """FLOPs in decimal units, three digits. For a rate, append "/s".

    >>> format_flops(2.825e11)
    '282 GFLOP'
    """
    return _scaled(value, "FLOP")


def format_time(seconds: float) -> str:
    """A duration in the unit that suits it, three digits.

    >>> [format_time(t) for t in (4.19, 0.0159, 2.5e-6, 7200.0)]
    ['4.19 s', '15.9 ms', '2.5 us', '2 h']
    """
    steps: tuple[tuple[float, float, str], ...] = (
        (172800.0, 86400.0, "days"),
        (7200.0, 3600.0, "h"),
        (1.0, 1.0, "s"),
        (1e-3, 1e-3, "ms"),
        (1e-6, 1e-6, "us"),
    )
    for limit, factor, unit in steps:
        if abs(seconds) >= limit * (1 - 5e-4):
            return f"{_three_digits(seconds / factor)} {unit}"
    return "0 s" if seconds == 0.0 else f"{_three_digits(seconds / 1e-9)} ns"


def _three_digits(number: float) -> str:
    return f"{number:.3g}" if abs(number) < 999.5 else f"{number:.0f}"
