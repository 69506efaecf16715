"""Products by tiles: by hand on an imagined machine, and what must hold on the shipped ones."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwright.costmodel.errors import ProfileError
from meshwright.costmodel.formulas.matmul import TiledMachine
from meshwright.costmodel.formulas.tiled_products import tiled_products_s
from meshwright.costmodel.program.operators import Precision
from meshwright.costmodel.tables import GemmLaw
from meshwright.hardware_profiles import load_profile

LAW = GemmLaw(
    rate_fraction=0.5,
    depth_s=1e-12,
    side_s=1e-12,
    load_sharpness=20.0,
    tile_depth=64.0,
    value_s=1e-12,
    later_share=0.5,
    bandwidth_fraction=1.0,
    start_s=3.0,
    sharpness=20.0,
    join_s=1e6,
    join_share=1.0,
)
"""Loads and ends by value cost nothing here, and cutting the depth is never worth it."""
MACHINE = TiledMachine(num_sms=4, flops_per_s=4.0 * 4.0 * 256 * 128, bytes_per_s=1e12)
"""A tile of 256 x 128 takes a second for each unit of depth."""

SIDES = st.integers(1, 20000)


def _time_s(m: float, n: float, k: float, law: GemmLaw = LAW, machine: TiledMachine = MACHINE) -> float:
    return float(tiled_products_s(np.array([[m, n, k]], dtype=np.float64), law, machine)[0])


def test_one_wave_takes_its_depth_and_its_ends() -> None:
    law = msgspec.structs.replace(LAW, later_share=1.0)
    assert _time_s(512, 256, 128, law) == pytest.approx(3.0 + 128 + 64)  # four tiles of 256 x 128, one an SM


def test_depth_goes_in_whole_steps() -> None:
    assert _time_s(512, 256, 65) == _time_s(512, 256, 128)


def test_the_second_wave_starts_and_ends_in_part_under_the_first() -> None:
    tall = msgspec.structs.replace(LAW, depth_s=0.9)  # loads make small tiles dear
    one, two = (_time_s(m, 256, 1024, tall) for m in (512, 1024))
    assert two - one == pytest.approx(1024 + 0.5 * 64, rel=1e-2)


def test_smaller_tiles_are_chosen_where_large_ones_leave_sms_idle() -> None:
    assert _time_s(256, 128, 1024) < 3.0 + 0.3 * (1024 + 64)  # one of 256 x 128 would have three SMs idle


def test_cutting_the_depth_is_chosen_where_joining_costs_little() -> None:
    cheap = msgspec.structs.replace(LAW, join_s=1.0)
    small = msgspec.structs.replace(LAW, depth_s=1.0)  # any tile takes a second for each unit of depth
    assert _time_s(64, 64, 4096, small) == pytest.approx(3.0 + 4096 + 64, rel=1e-6)
    quarter = _time_s(64, 64, 4096, msgspec.structs.replace(cheap, depth_s=1.0))
    assert quarter == pytest.approx(3.0 + 1024 + 64 + 1.0, rel=1e-6)


def test_traffic_bounds_what_hardly_computes() -> None:
    half = msgspec.structs.replace(LAW, bandwidth_fraction=0.5)
    slow = MACHINE._replace(bytes_per_s=1e3)
    assert _time_s(256, 128, 64, half, slow) == pytest.approx(3.0 + 2 * (256 * 64 + 64 * 128 + 256 * 128) / 500)


def test_sums_move_more_bytes() -> None:
    shapes, slow = np.array([[256.0, 128.0, 64.0]]), MACHINE._replace(bytes_per_s=1e3)
    plain, sums = (float(tiled_products_s(shapes, LAW, slow, output_bytes)[0]) for output_bytes in (2, 8))
    assert sums - plain == pytest.approx(6 * 256 * 128 / 1e3)


@given(m=SIDES, n=SIDES, k=SIDES, more=st.integers(0, 3000), side=st.integers(0, 2))
def test_no_larger_product_is_faster(m: int, n: int, k: int, more: int, side: int) -> None:
    profile = load_profile("h100")
    law = profile.gemm[0].law
    assert law is not None
    machine = TiledMachine(profile.gpu.num_sms, profile.gpu.bf16_flops_per_s, profile.gpu.copy_bytes_per_s)
    shapes = np.array([[m, n, k], [m, n, k]], dtype=np.float64)
    shapes[1, side] += more
    smaller_s, larger_s = tiled_products_s(shapes, law, machine)
    assert smaller_s <= larger_s * (1.0 + 1e-12)


@given(m=SIDES, n=SIDES, k=SIDES)
def test_rows_and_columns_are_alike(m: int, n: int, k: int) -> None:
    assert _time_s(m, n, k) == _time_s(n, m, k)


@given(m=SIDES, n=SIDES, k=SIDES, factor=st.floats(1.0, 10.0))
def test_all_slower_is_as_much_slower(m: int, n: int, k: int, factor: float) -> None:
    slow = MACHINE._replace(flops_per_s=MACHINE.flops_per_s / factor, bytes_per_s=MACHINE.bytes_per_s / factor)
    assert _time_s(m, n, k, LAW.slowed(factor), slow) == pytest.approx(factor * _time_s(m, n, k))


@pytest.mark.parametrize(
    ("field", "value"),
    [("rate_fraction", 1.2), ("side_s", -1e-12), ("start_s", float("nan")), ("sharpness", 0.5), ("join_s", 0.0)],
)
def test_figures_that_cannot_be_are_refused(field: str, value: float) -> None:
    with pytest.raises(ProfileError, match=r"gemm\.law"):
        msgspec.structs.replace(LAW, **{field: value})


def test_a_law_is_for_bf16() -> None:
    table = load_profile("h100").gemm[0]
    with pytest.raises(ProfileError, match=r"gemm\.law: is of a table for fp8; expected bf16"):
        msgspec.structs.replace(table, precision=Precision.FP8)
