from __future__ import annotations

import time

import numpy as np
import pytest

from meshwright.costmodel.errors import InputError
from meshwright.costmodel.strategy import Recompute
from meshwright.planner.plan import Plan
from meshwright.planner.sweep.axes import Range, check_readable, check_size, grid_of, parse_axes
from meshwright.planner.what_if import baseline_of


def _values(text: str) -> list[str]:
    axis = parse_axes((text,)).axes[0]
    return [axis.values[place] for place in range(len(axis.values))]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("ep=4,8 , 16", ["4", "8", "16"]),
        ("ep=4", ["4"]),
        ("top_k=1..4", ["1", "2", "3", "4"]),
        ("seq_len=4096..9000:2048", ["4096", "6144", "8192"]),
        ("network_bytes_per_s=100..400:150 Gbit/s", ["100 Gbit/s", "250 Gbit/s", "400 Gbit/s"]),
        ("nvlink_bytes_per_s=0.1..0.3:0.1x", ["0.1x", "0.2x", "0.3x"]),
        ("nvlink_bytes_per_s=1e11..3e11:1e11", ["100000000000", "200000000000", "300000000000"]),
    ],
)
def test_values_are_listed_or_stepped_through(text: str, values: list[str]) -> None:
    assert _values(text) == values


def test_a_grid_has_every_combination_the_last_key_fastest() -> None:
    grid = parse_axes(("ep=4,8", "workload.seq_len=1..3"))
    assert (len(grid), grid.keys) == (6, ("mesh.ep", "workload.seq_len"))
    points = [grid.point(index) for index in range(len(grid))]
    assert [tuple(point.values()) for point in points] == [
        (ep, seq_len) for ep in ("4", "8") for seq_len in ("1", "2", "3")
    ]
    assert all(tuple(point) == grid.keys for point in points)


def test_values_from_python_are_as_typed() -> None:
    grid = grid_of(
        {
            "network_bytes_per_s": [5e10, "800 Gbit/s", np.float64(1e11)],
            "top_k": range(1, 3),
            "layers.recompute": [Recompute.FULL],
            "cuda_graphs": (True,),
            "ep": "4,8",
        }
    )
    texts = [[axis.values[place] for place in range(len(axis.values))] for axis in grid.axes]
    assert texts == [["50000000000.0", "800 Gbit/s", "100000000000.0"], ["1", "2"], ["full"], ["on"], ["4", "8"]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "--sweep: nothing to sweep over"),
        ({"ep": []}, "--sweep: ep: has an empty value"),
        ({"ep": 4}, "--sweep: ep: 4 is not a list of values"),
        ({"ep": [4, 4]}, "--sweep: ep: value '4' is given twice"),
        ({"ep": [4], "mesh.ep": [8]}, "--sweep: mesh.ep: is given twice"),
        ({"epp": [4]}, "--sweep: epp: unknown key; did you mean"),
    ],
)
def test_a_sweep_of_nothing_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        grid_of(values)
    assert str(caught.value).startswith(message)


def test_a_unit_behind_the_last_value_is_not_that_of_all() -> None:
    with pytest.raises(InputError, match=r"'100' has no unit, but '400 Gbit/s' has; give each value its own unit"):
        parse_axes(("network_bytes_per_s=100,400 Gbit/s",))
    assert _values("network_bytes_per_s=100 Gbit/s,400 Gbit/s,2x") == ["100 Gbit/s", "400 Gbit/s", "2x"]
    assert _values("network_bytes_per_s=1e9,2x") == ["1e9", "2x"]
    assert _values("cluster.slow_link=1,0.5@adapter:2") == ["1", "0.5@adapter:2"]
    assert _values("cluster.slow_gpu=1.1@stage:3,1.1") == ["1.1@stage:3", "1.1"]


@pytest.mark.parametrize("text", ["ep=8..4", "ep=1..4:0", "ep=", "ep", "=4", "ep=4,,8", "ep=,"])
def test_a_sweep_without_values_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--sweep"):
        parse_axes((text,))


def test_a_million_points_are_refused_with_their_number_at_once() -> None:
    start = time.process_time()
    grid = parse_axes(("seq_len=1..1000000000", "ep=1..1000"))
    with pytest.raises(InputError, match=r"1,000,000,000,000 points \(1,000,000,000 x 1,000\); more than 10,000"):
        check_size(grid, force=False)
    check_size(grid, force=True)
    check_size(parse_axes(("seq_len=1..10000",)), force=False)
    assert time.process_time() - start < 1.0


def test_a_value_that_its_key_cannot_take_is_refused(tiny_plan: Plan) -> None:
    draft = baseline_of(tiny_plan).draft
    check_readable(parse_axes(("gpu=h100,a100", "ep=2x,8")), draft)
    with pytest.raises(InputError, match=r"--sweep: cluster\.gpu: 'b200' is unknown"):
        check_readable(parse_axes(("ep=4,8", "gpu=h100,b200")), draft)


def test_a_range_is_exact_where_floats_are_not() -> None:
    tenths = Range(start="0.1", stop="0.7", step="0.1")
    assert len(tenths) == 7
    assert tenths[6] == "0.7"
