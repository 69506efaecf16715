from __future__ import annotations

from meshwright.planner.describe.section import gib, percent, ranges


def test_numbers_are_printed_in_units_of_the_field() -> None:
    assert gib(2**30 * 74.44) == "74.4"
    assert percent(0.1254) == "12.5 %"


def test_ranges_of_nothing_and_of_one() -> None:
    assert ranges([]) == ""
    assert ranges([4]) == "4"
