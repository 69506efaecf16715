"""Published micro-benchmarks: every row is a figure or has a reason, and a figure is what its source says."""

from __future__ import annotations

import csv

import pytest

from meshwright.costmodel.program.operators import (
    AttentionWork,
    Collective,
    CollectiveWork,
    GemmWork,
    Group,
    GroupedGemmWork,
    Pass,
    Precision,
)
from meshwright.planner.validation.operators import published_figures, replayed_errors, unused_rows
from meshwright.planner.validation.operators.published import FOLDER, PublishedFigure


def figure(row: str) -> PublishedFigure:
    return next(one for one in published_figures() if one.id == row)


def test_every_row_is_replayed_or_has_a_reason() -> None:
    rows = [
        cells["row_id"]
        for path in sorted(FOLDER.glob("*.csv"))
        for cells in csv.DictReader(path.read_text(encoding="utf-8").splitlines())
    ]
    replayed = {one.id for one in published_figures()}
    assert replayed.isdisjoint(unused_rows())
    assert replayed | set(unused_rows()) == set(rows)
    assert sum(one.samples for one in replayed_errors(published_figures())) == len(replayed) > 1000


def test_grouped_rows_count_one_group_or_all_of_them() -> None:
    (deepgemm,) = figure("G01914").works  # 8 groups of 4,096 rows, 1,493.9 us
    assert deepgemm == GroupedGemmWork(num_groups=8, rows=32768, n=4096, k=7168, precision=Precision.FP8)
    (torchao,) = figure("G02002").works  # 32,768 rows among 8 groups, 457 TFLOP/s
    assert torchao == GroupedGemmWork(
        num_groups=8, rows=32768, n=2048, k=7168, precision=Precision.FP8, direction=Pass.WGRAD
    )
    assert 2 * 32768 * 2048 * 7168 / figure("G02002").time_s == pytest.approx(457e12, rel=0.01)


def test_attention_rates_count_half_the_square_where_causal() -> None:
    row = figure("A0267")  # 32 heads of 128 over 4, two sequences of 8,192, causal, both passes 7.4875 ms
    assert [isinstance(work, AttentionWork) and work.backward for work in row.works] == [False, True]
    assert row.time_s == pytest.approx(7.4875e-3, rel=0.01)


def test_times_come_from_the_rate_where_only_that_is_printed() -> None:
    row = figure("C00333")  # all-reduce of 16 GiB on 8 H200, 275.58 GB/s
    assert row.works == (
        CollectiveWork(collective=Collective.ALL_REDUCE, num_bytes=2.0**34, group=Group(size=8, ranks_per_node=8)),
    )
    assert row.time_s == pytest.approx(2**34 / 275.58e9)
    assert row.profile == "h200"


def test_first_row_is_a_product_of_the_sm90_table() -> None:
    assert figure("G00001").works == (GemmWork(m=256, n=256, k=256),)
    assert figure("G00001").time_s == pytest.approx(4.992e-6)
