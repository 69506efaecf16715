"""Quantities with units, strictly read and shortly printed."""

from __future__ import annotations

import pytest

from meshwright.costmodel.errors import ClusterError
from meshwright.costmodel.units import (
    Dimension,
    format_bandwidth,
    format_bytes,
    format_flops,
    format_time,
    parse_quantity,
)


@pytest.mark.parametrize(
    ("text", "dimension", "value"),
    [
        ("400 Gbit/s", Dimension.BYTES_PER_S, 50e9),
        ("450GB/s", Dimension.BYTES_PER_S, 450e9),
        ("1.5 GiB/s", Dimension.BYTES_PER_S, 1.5 * 2**30),
        ("80 GB", Dimension.BYTES, 80e9),
        ("2 TiB", Dimension.BYTES, 2 * 2**40),
        ("5 us", Dimension.SECONDS, 5e-6),
        ("5 µs", Dimension.SECONDS, 5e-6),
        ("2 days", Dimension.SECONDS, 172800.0),
        ("989.4 TFLOP/s", Dimension.FLOPS_PER_S, 989.4e12),
        ("1e2 ns", Dimension.SECONDS, 1e-7),
    ],
)
def test_reads_a_number_with_its_unit(text: str, dimension: Dimension, value: float) -> None:
    assert parse_quantity(text, dimension, where="f", field="x") == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "dimension", "words"),
    [
        ("400", Dimension.BYTES_PER_S, "with a unit"),
        (400, Dimension.BYTES_PER_S, "with a unit"),
        (None, Dimension.BYTES, "with a unit"),
        ("fast", Dimension.BYTES_PER_S, "with a unit"),
        ("nan GB/s", Dimension.BYTES_PER_S, "with a unit"),
        ("80 GB/s", Dimension.BYTES, "unit 'GB/s'"),
        ("80 Gb", Dimension.BYTES, "unit 'Gb'"),
        ("5 Gbits", Dimension.BYTES_PER_S, "unit 'Gbits'"),
        ("0 GB/s", Dimension.BYTES_PER_S, "not a positive"),
        ("-3 us", Dimension.SECONDS, "not a positive"),
        ("1e999 GB", Dimension.BYTES, "not a positive"),
    ],
)
def test_refuses_anything_else_in_one_line(text: object, dimension: Dimension, words: str) -> None:
    with pytest.raises(ClusterError) as caught:
        parse_quantity(text, dimension, where="cluster.yaml", field="network", error=ClusterError)
    message = str(caught.value)
    assert message.startswith("cluster.yaml: network: ")
    assert words in message
    assert "\n" not in message


def test_prints_three_digits_in_the_unit_that_suits() -> None:
    assert format_bytes(0) == "0 B"
    assert format_bytes(1023.9) == "1 KiB"
    assert format_bytes(1000 * 2**20) == "1000 MiB"
    assert format_bytes(78.2 * 2**30) == "78.2 GiB"
    assert format_bandwidth(50e9) == "50 GB/s"
    assert format_bandwidth(3.35e12) == "3.35 TB/s"
    assert format_flops(999.6e9) == "1 TFLOP"
    assert [format_time(t) for t in (0.0, 1e-9, 0.9999, 61.0, 86400.0, 200000.0)] == [
        "0 s",
        "1 ns",
        "1 s",
        "61 s",
        "24 h",
        "2.31 days",
    ]
