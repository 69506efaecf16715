from __future__ import annotations

from typing import Any

import pytest

from meshwright.costmodel.errors import InputError
from meshwright.costmodel.program.operators import Precision
from meshwright.costmodel.units import Dimension
from meshwright.planner.change import Read, choice, count, count_or_none, name_of, number, quantity, switch

RATE = quantity(Dimension.BYTES_PER_S)
NAMES = name_of(lambda: ("one", "two"))


@pytest.mark.parametrize(
    ("read", "text", "before", "value"),
    [
        (count, "16", 8, 16),
        (count, "2x", 8, 16),
        (count, "0.5x", 8, 4),
        (count, "1e3x", 8, 8000),
        (count_or_none, "0", 8, 0),
        (number(1.0), "1.5", 1.0, 1.5),
        (switch, "on", False, True),
        (switch, "False", True, False),
        (choice(Precision), "fp8", Precision.BF16, Precision.FP8),
        (NAMES, "two", "one", "two"),
        (NAMES, "my own", "my own", "my own"),
        (RATE, "400 Gbit/s", 1.0, 50e9),
        (RATE, "5e10", 1.0, 50e9),
        (RATE, "2x", 25e9, 50e9),
    ],
)
def test_values_are_read_as_people_write_them(read: Read, text: str, before: Any, value: Any) -> None:  # noqa: ANN401
    found = read("some.key", text, before)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("read", "text", "before", "message"),
    [
        (count, "0", 8, "'0' is not a positive whole number"),
        (count, "-4", 8, "'-4' is not a positive whole number"),
        (count, "1.5", 8, "'1.5' is not a positive whole number"),
        (count, "0.3x", 8, "'0.3x' is not a positive whole number"),
        (count, "2x", "1, 2", "'2x' is not a positive whole number"),
        (number(1.0), "0.9", 1.0, "'0.9' is not a number >= 1"),
        (number(0.0, above=True), "0", 1.0, "'0' is not a number > 0"),
        (number(0.0), "inf", 1.0, "'inf' is not a number >= 0"),
        (switch, "1", False, "'1' is neither on nor off"),
        (choice(Precision), "fp4", Precision.BF16, "'fp4' is unknown; expected one of bf16, fp8"),
        (NAMES, "three", "one", "'three' is unknown; expected one of one, two"),
        (RATE, "4 GB", 1.0, "unit 'GB' of '4 GB' is not one of"),
        (RATE, "-1", 1.0, "'-1' is not a positive finite quantity, as in 400 Gbit/s or 450 GB/s or 2x"),
        (RATE, "fast", 1.0, "'fast' is not a number with a unit"),
    ],
)
def test_what_is_no_value_is_refused(read: Read, text: str, before: Any, message: str) -> None:  # noqa: ANN401
    with pytest.raises(InputError) as caught:
        read("some.key", text, before)
    assert str(caught.value).startswith(f"--set: some.key: {message}")
