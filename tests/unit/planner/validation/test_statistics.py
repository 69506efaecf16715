from __future__ import annotations

import pytest

from meshwright.planner.validation.statistics import ErrorSummary, quantile, summarize


def test_a_case_worked_out_by_hand() -> None:
    # Absolute errors .1 .1 .2 .3 .4: mean 1.1/5, median .2, 90th percentile at place 3.6: .3 + .6 (.4 - .3).
    summary = summarize([0.1, -0.1, None, 0.2, -0.3, 0.4])
    assert (summary.rows, summary.predicted) == (6, 5)
    assert summary.mape == pytest.approx(0.22)
    assert summary.median_ape == pytest.approx(0.2)
    assert summary.p90_ape == pytest.approx(0.36)
    assert summary.bias == pytest.approx(0.1)


def test_nothing_predicted_is_said_so() -> None:
    assert summarize([None]) == ErrorSummary(rows=1, predicted=0, mape=None, median_ape=None, p90_ape=None, bias=None)


@pytest.mark.parametrize(("share", "value"), [(0.0, 1.0), (1.0, 5.0), (0.25, 2.0), (0.1, 1.4)])
def test_quantiles_lie_between_neighbours(share: float, value: float) -> None:
    assert quantile([5.0, 3.0, 1.0, 4.0, 2.0], share) == pytest.approx(value)
