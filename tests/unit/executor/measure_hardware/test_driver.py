"""Whole runs on the host: what is measured, kept, gone on with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from meshwright.costmodel.program.operators import CollectiveWork, GemmWork
from meshwright.executor.measure_hardware import Entry, Extent, ProfileRequest, Survey, build_survey, driver, local_run
from meshwright.executor.measure_hardware.driver import run_profile
from meshwright.executor.measure_hardware.local_run import LocalRun
from meshwright.executor.measure_hardware.operators import Runnable, build_operator
from meshwright.executor.measure_hardware.outcome import ProfileOutcome
from meshwright.executor.measure_hardware.partial import load_partial
from meshwright.hardware_profiles.measurements import Measurements


@pytest.fixture
def request_(tmp_path: Path) -> ProfileRequest:
    return ProfileRequest(
        output=tmp_path / "p.json", measurements=tmp_path / "m.json", extent=Extent.TINY, on_gpus=False
    )


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> list[Entry]:
    """A survey of four samples."""
    whole = build_survey(Extent.TINY, num_gpus=1, gpus_per_node=1)
    survey = Survey(extent=Extent.TINY, local=whole.local[:4])

    def build(extent: Extent, **_: int) -> Survey:
        del extent
        return survey

    monkeypatch.setattr(driver, "build_survey", build)
    return list(survey.local)


def _run(request: ProfileRequest, console: Console | None = None) -> ProfileOutcome:
    outcome = run_profile(request, console or Console(quiet=True))
    assert outcome is not None
    return outcome


def _printed(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


def test_one_device(request_: ProfileRequest) -> None:
    outcome = _run(request_)
    reasons = {skipped.reason.split(":")[0] for skipped in outcome.skipped}
    assert reasons == {"NotImplementedError"}  # the fused backward of norms, which GPUs alone have
    survey = build_survey(Extent.TINY, num_gpus=1, gpus_per_node=1)
    assert len(outcome.measurements.samples) == len(survey.local) - len(outcome.skipped)
    assert outcome.measurements.launch is not None
    assert outcome.measurements.launch.collective_eager_s is None
    assert all(sample.reference_s for sample in outcome.measurements.samples if isinstance(sample.work, GemmWork))
    assert outcome.measurements.machine.torch


def test_two_ranks(request_: ProfileRequest) -> None:
    outcome = _run(msgspec.structs.replace(request_, num_ranks=2))
    links = [s for s in outcome.measurements.samples if isinstance(s.work, CollectiveWork)]
    survey = build_survey(Extent.TINY, num_gpus=2, gpus_per_node=2)
    assert len(links) == len(survey.links)
    assert len(outcome.measurements.interference) == len(survey.link_interference)
    assert {sample.gpu for sample in outcome.measurements.samples} == {0, 1}
    encoded = msgspec.json.encode(outcome.measurements)
    assert msgspec.json.decode(encoded, type=Measurements) == outcome.measurements


def test_an_interrupted_run_goes_on(
    request_: ProfileRequest, few: list[Entry], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured: list[str] = []
    whole = LocalRun.measure_one

    def interrupted(self: LocalRun, entry: Entry, seconds: float) -> None:
        if len(measured) == 2:
            raise KeyboardInterrupt
        measured.append(entry.key)
        whole(self, entry, seconds)

    with monkeypatch.context() as patch:
        patch.setattr(LocalRun, "measure_one", interrupted)
        with pytest.raises(KeyboardInterrupt):
            _run(request_, Console(width=1000))
    assert "the same command goes on from there" in _printed(capsys)
    assert not request_.output.exists()
    assert not request_.measurements.exists()
    partial = load_partial(request_.output.with_name("p.json.partial.jsonl"))
    assert len(partial.measurements.samples) == 2
    assert partial.num_samples == len(few) + 2  # launches and the sustained layer, too

    def again(self: LocalRun, entry: Entry, seconds: float) -> None:
        measured.append(entry.key)
        whole(self, entry, seconds)

    with monkeypatch.context() as patch:
        patch.setattr(LocalRun, "measure_one", again)
        outcome = _run(request_, Console(width=1000))
    assert "going on after" in _printed(capsys)
    assert measured == [entry.key for entry in few]
    assert len(outcome.measurements.samples) == len(few)


def test_restart_measures_all_again(request_: ProfileRequest, few: list[Entry]) -> None:
    first = _run(request_)
    assert _run(request_).measurements.samples == first.measurements.samples
    again = _run(msgspec.structs.replace(request_, restart=True))
    assert len(again.measurements.samples) == len(few)
    assert again.measurements.samples != first.measurements.samples


def test_a_sample_that_fails_does_not_end_the_run(
    request_: ProfileRequest, few: list[Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    build = build_operator

    def failing(entry: Entry, *arguments: object) -> Runnable:
        if entry == few[1]:
            raise RuntimeError("CUDA out of memory")
        return build(entry, *arguments)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(local_run, "build_operator", failing)
    outcome = _run(request_)
    assert len(outcome.measurements.samples) == len(few) - 1
    (skipped,) = outcome.skipped
    assert skipped.reason == "RuntimeError: CUDA out of memory"


def test_a_wrong_result_is_not_timed(
    request_: ProfileRequest, few: list[Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    build = build_operator

    def wrong(entry: Entry, *arguments: object) -> Runnable:
        operator = build(entry, *arguments)  # type: ignore[arg-type]  # passed on as they came
        return replace(operator, check=lambda: 0.3) if entry == few[0] else operator

    monkeypatch.setattr(local_run, "build_operator", wrong)
    outcome = _run(request_)
    reasons = [skipped.reason for skipped in outcome.skipped]
    assert len(reasons) == sum(entry.family == few[0].family for entry in few)
    assert "wrong result: error 0.3 of the norm" in reasons[0]
