"""The promise: 95 % of the packaged runs are predicted, half of them within 15 %."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshwright.costmodel.runtime import load_runtime
from meshwright.planner.validation.fit_record import fit_record
from meshwright.planner.validation.free_parameters import free_parameters
from meshwright.planner.validation.interval import residual_record, step_time_interval
from meshwright.planner.validation.peers import HELD_OUT, OURS, TOOLS, peer_cases, peer_summaries
from meshwright.planner.validation.printed_settings import runtime_name_of
from meshwright.planner.validation.residuals import residuals_of
from meshwright.planner.validation.rows import RowText, packaged_path, parse_row, read_table
from meshwright.planner.validation.run_description import describe
from meshwright.planner.validation.scatter import write_scatter
from meshwright.planner.validation.summary import summary_of
from meshwright.planner.validation.validation import RowResult, Status, predicted_step_s, validate, validate_row

TABLE = read_table(packaged_path())


@pytest.fixture(scope="module")
def results() -> tuple[RowResult, ...]:
    return validate(TABLE)


def test_median_error_and_share_of_predicted_rows(results: tuple[RowResult, ...]) -> None:
    overall = summary_of(results).fit.overall
    assert overall.rows == len(TABLE) == 338
    assert overall.predicted >= 0.95 * overall.rows
    assert overall.median_ape is not None
    assert overall.median_ape <= 0.15


def test_the_paper_table_is_within_a_tenth(results: tuple[RowResult, ...]) -> None:
    errors = {result.id: result.error for result in results if result.framework == "megascale-moe"}
    for size in (480, 720, 960, 1440):
        error = errors[f"MSMOE{size}"]
        assert error is not None
        assert abs(1.0 / (1.0 + error) - 1.0) <= 0.10


def test_summaries_add_up(results: tuple[RowResult, ...]) -> None:
    for summary in (summary_of(results).fit, summary_of(results).held_out):
        for groups in (summary.by_kind, summary.by_framework, summary.by_framework_and_kind):
            assert sum(part.rows for part in groups.values()) == summary.overall.rows
        assert set(summary.by_kind) == {"dense", "moe"}


@pytest.mark.parametrize(
    ("cells", "status"),
    [({"gpus": "nan"}, Status.INVALID), ({"gpu": "b200"}, Status.UNSUPPORTED), ({"pp": "-1"}, Status.INVALID)],
)
def test_bad_rows_are_listed_with_their_reason(cells: dict[str, str], status: Status) -> None:
    result = validate_row(RowText(number=2, cells={**TABLE[0].cells, **cells}))
    assert (result.status, result.error, result.predicted_tokens_per_s_per_gpu) == (status, None, None)
    assert next(iter(cells)) in result.reason
    assert result.measured_tokens_per_s_per_gpu == 12318.8


def test_more_than_the_gpu_can_do_is_no_measurement() -> None:
    result = validate_row(RowText(number=2, cells={**TABLE[0].cells, "measured_tokens_per_s_per_gpu": "5e6"}))
    assert (result.status, result.error) == (Status.INVALID, None)
    assert "5e+06 would be" in result.reason
    assert "of the GPU's peak" in result.reason


def test_packaged_residuals_are_those_of_the_present_predictions(results: tuple[RowResult, ...]) -> None:
    for kind, now in residuals_of(results).by_kind.items():
        packaged = residual_record().by_kind[kind]
        assert packaged.rows == now.rows
        assert (packaged.low, packaged.high) == pytest.approx((now.low, now.high), abs=0.02), (
            "run: meshwright validate --fit"
        )


def test_intervals_from_other_models_hold_nine_tenths_of_the_measurements(results: tuple[RowResult, ...]) -> None:
    coverage = summary_of(results).coverage
    for group in ("all", "dense", "moe"):
        share = coverage[group].share
        assert share is not None
        assert 0.85 <= share <= 0.95
    for kind in ("dense", "moe"):
        low, high = step_time_interval(1.0, kind)
        assert low <= 1.0 <= high


def test_held_out_errors_keep_their_targets(results: tuple[RowResult, ...]) -> None:
    groups = summary_of(results).held_out.by_description_and_kind
    targets = {"megatron dense": 0.06, "megatron moe": 0.12, "fsdp-torch dense": 0.10, "llm-foundry dense": 0.10}
    for group, most in targets.items():
        median = groups[group].median_ape
        assert median is not None
        assert median <= most, group


def test_held_out_predictions_are_hardly_biased(results: tuple[RowResult, ...]) -> None:
    groups = summary_of(results).held_out.by_table_row
    for group in ("megatron dense", "megatron moe", "fsdp-torch dense, every description", "dense", "moe"):
        bias = groups[group].bias
        assert bias is not None
        assert abs(bias) <= 0.03, group


def test_memory_where_it_was_printed(results: tuple[RowResult, ...]) -> None:
    memory = summary_of(results).memory
    assert memory.rows == 53
    assert memory.median_ape is not None
    assert memory.median_ape <= 0.10
    assert set(memory.predicted_out_of_memory) <= {"T0504", "T0972", "T0973"}


def test_our_errors_on_the_peers_cases_are_the_smallest() -> None:
    cases = peer_cases()
    assert len(cases) == 25
    for kind in ("dense", "moe"):
        summaries = peer_summaries(cases, kind)
        assert summaries[OURS].predicted == sum(case.kind == kind for case in cases)
        for name in (OURS, HELD_OUT):
            ours = summaries[name].mape
            assert ours is not None
            assert all(ours < (summaries[tool].mape or 9.9) for tool in TOOLS)


def test_a_run_measured_twice_is_predicted_once() -> None:
    """The prediction depends on the row's settings, never on its name or measurement."""
    cells = {**TABLE[0].cells, "id": "another", "measured_tokens_per_s_per_gpu": "1", "source": "elsewhere"}
    one, other = validate_row(TABLE[0]), validate_row(RowText(number=9, cells=cells))
    assert one.predicted_tokens_per_s_per_gpu == other.predicted_tokens_per_s_per_gpu


def test_more_gpus_never_slow_a_step_of_the_paper() -> None:
    sizes = (240, 480, 720, 960, 1440)
    rows = [parse_row(text) for size in sizes for text in TABLE if text.id == f"MSMOE{size}"]
    times = [predicted_step_s(describe(row)) for row in rows]
    assert times == sorted(times, reverse=True)


def test_scatter_is_a_png(tmp_path: Path, results: tuple[RowResult, ...]) -> None:
    write_scatter(results, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["plot.png"]


def test_the_packaged_fit_is_that_of_the_descriptions() -> None:
    for fit in fit_record().frameworks:
        shipped = load_runtime(fit.framework)
        assert fit.values == {name: getattr(shipped, name) for name in fit.values}, "run: meshwright validate --fit"
        assert set(fit.values) == {one.name for one in free_parameters()[fit.framework]}


def test_no_model_is_both_in_a_fit_and_in_its_test() -> None:
    rows = [parse_row(text) for text in TABLE]
    for fit in fit_record().frameworks:
        models = {row.model for row in rows if runtime_name_of(row) == fit.framework}
        if models:
            assert models == {fold.held_out for fold in fit.folds}
