"""What an interrupted run leaves serves for a profile, marked as incomplete."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshwright.costmodel.errors import ProfileError
from meshwright.costmodel.program.operators import GemmWork
from meshwright.executor.measure_hardware.journal import Described, Journal, Launched, Measured, Skipped
from meshwright.executor.measure_hardware.machine import describe_machine
from meshwright.executor.measure_hardware.nvidia_smi import GpuReading
from meshwright.executor.measure_hardware.partial import is_partial, load_partial
from meshwright.hardware_profiles import load_profile
from meshwright.hardware_profiles.build import build_profile
from meshwright.hardware_profiles.measurements import Implementation, LaunchSample, Machine, Purpose, Sample


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "p.json.partial.jsonl", "machine", restart=False, num_samples=9)


def _machine() -> Machine:
    import torch

    return describe_machine(device=torch.device("cpu"), num_gpus=1, usable_bytes=2**30, reading=GpuReading())


def _sample(size: int) -> Sample:
    return Sample(
        work=GemmWork(m=size, n=size, k=size),
        implementation=Implementation.CUBLAS,
        purpose=Purpose.FIT,
        time_s=1e-3,
        low_s=1e-3,
        high_s=1e-3,
        repeats=5,
    )


def test_samples_before_the_interruption_are_kept(journal: Journal) -> None:
    launch = LaunchSample(eager_s=5e-6, collective_eager_s=None, cuda_graph_s=1e-6, kernel_floor_s=2e-6)
    journal.add("machine", Described(machine=_machine()))
    journal.add("b", Measured(sample=_sample(4096)))
    journal.add("a", Measured(sample=_sample(1024)))
    journal.add("c", Skipped(what="c", reason="no memory"))
    journal.add("launch", Launched(sample=launch))
    with journal.path.open("ab") as file:
        file.write(b'{"key":"d","outcome":{"type":"mea')  # the run ended while it wrote
    partial = load_partial(journal.path)
    assert partial.measurements.samples == (_sample(1024), _sample(4096))
    assert partial.measurements.launch == launch
    assert not partial.measurements.complete
    assert (partial.num_results, partial.num_samples) == (3, 9), (
        "two samples and the launches; what was skipped is none"
    )
    built = build_profile(partial.measurements, base=load_profile("h100"))
    assert "incomplete: interrupted after 2 samples" in built.gemm[0].provenance.text


def test_nothing_was_measured_yet(journal: Journal) -> None:
    with pytest.raises(ProfileError, match="before the first sample"):
        load_partial(journal.path)


def test_a_line_that_is_no_result_is_named(journal: Journal) -> None:
    with journal.path.open("ab") as file:
        file.write(b"nonsense\n")
    with pytest.raises(ProfileError, match="line 2"):
        load_partial(journal.path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.partial.jsonl"
    with pytest.raises(ProfileError, match="cannot be read"):
        load_partial(path)
    path.write_text("nonsense\n", encoding="utf-8")
    with pytest.raises(ProfileError, match="cannot be read"):
        load_partial(path)
    assert is_partial(path)
    assert not is_partial(tmp_path / "p.measurements.json")
