from __future__ import annotations

import msgspec
import pytest

from meshwright.costmodel.circumstances import Circumstances, Recovery
from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.expert_load import ZipfLoad
from meshwright.costmodel.step import predict
from meshwright.planner.describe.outlook import outlook_sections
from meshwright.planner.describe.section import Section
from meshwright.planner.goodput import training_outlook

replace = msgspec.structs.replace


@pytest.fixture
def failing(tiny_configuration: TrainingConfiguration) -> TrainingConfiguration:
    """One failure in an hour, 2.50 a GPU and hour."""
    cluster = replace(tiny_configuration.cluster, mean_time_between_failures_s=8 * 3600.0, price_per_gpu_hour=2.5)
    return replace(tiny_configuration, cluster=cluster)


def _sections(configuration: TrainingConfiguration, **circumstances: object) -> tuple[Section, ...]:
    given = replace(configuration, circumstances=Circumstances(**circumstances))  # type: ignore[arg-type]
    return outlook_sections(training_outlook(given, predict(given)))


def _text(section: Section) -> str:
    return "\n".join((section.title, *section.lines, *section.notes))


def test_a_run_in_words(failing: TrainingConfiguration) -> None:
    run, budget = _sections(failing, tokens=1e10, recovery=Recovery(checkpoint_interval_s=600.0))
    assert run.title.startswith("Training 10 B tokens: ")
    text = _text(run)
    for words in ("one in 60 min on average", "10 min to detect it, 5 min to restart", "one in 10 min; blocks"):
        assert words in text
    assert "90 % of runs within" in text
    assert "assumed: a checkpoint is safe as soon as it is written (run.checkpoint_store_s)" in text
    assert "standard error" not in text
    assert budget.columns == ("", "days", "GPU-hours", "cost")
    assert [row[0] for row in budget.rows] == [
        "expected (closed form)",
        "mean of runs drawn",
        "90 % interval: from",
        "to",
    ]
    days, hours, cost = (float(cell.replace(",", "")) for cell in budget.rows[0][1:])
    assert hours == pytest.approx(8 * 24 * days, rel=0.05)
    assert cost == pytest.approx(2.5 * hours, rel=0.1)


def test_jitter_repairs_and_storage_are_told(failing: TrainingConfiguration) -> None:
    recovery = Recovery(repair_s=7200.0, num_spare_nodes=1, checkpoint_store_s=60.0)
    text = _text(_sections(failing, tokens=1e10, jitter_fraction=0.05, recovery=recovery)[0])
    assert "without jitter" in text
    assert "400 steps drawn of 1 independent replicas; standard error of the mean" in text
    assert "nodes to spare: 1; a failed one is away for 2 h; the run waits 40.0 % of the time" in text
    assert "safe after another 60 s" in text
    assert "run.checkpoint_store_s" not in text


def test_dropped_rows_are_told(tiny_configuration: TrainingConfiguration) -> None:
    workload = replace(tiny_configuration.workload, expert_load=ZipfLoad(exponent=1.0), capacity_factor=1.0)
    routing, *_ = _sections(replace(tiny_configuration, workload=workload))
    assert routing.title == "Expert load: zipf:1, contiguous on ranks"
    assert "of the routed rows are dropped" in _text(routing)
    assert "tokens/s and MFU count dropped rows as trained" in routing.notes
    dropless = replace(tiny_configuration, workload=replace(workload, capacity_factor=msgspec.UNSET))
    assert "dropless: nothing is dropped" in _text(_sections(dropless)[0])


def test_without_failures_there_is_one_row(failing: TrainingConfiguration) -> None:
    cluster = replace(failing.cluster, mean_time_between_failures_s=None, price_per_gpu_hour=None)
    run, budget = _sections(replace(failing, cluster=cluster))
    assert run.notes == ("assumed: nothing fails (cluster.mean_time_between_failures_s)",)
    assert len(budget.rows) == 1
    assert budget.notes == ("no cost: the cluster has no price_per_gpu_hour",)


def test_a_run_that_hardly_gets_on(failing: TrainingConfiguration) -> None:
    cluster = replace(failing.cluster, mean_time_between_failures_s=60.0)
    *_, budget = _sections(replace(failing, cluster=cluster))
    assert budget.lines == ("the run hardly gets on: failures come faster than it recovers from them",)
