from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path

import msgspec
import pytest
import torch

from meshwright.cli import main
from meshwright.commands import profile
from meshwright.costmodel.hardware import HardwareProfile
from meshwright.executor.measure_hardware import Extent, ProfileRequest
from meshwright.executor.measure_hardware.journal import Described, Journal, Measured
from meshwright.hardware_profiles import load_profile
from meshwright.hardware_profiles.measurements import MEASUREMENTS_FOLDER, Measurements, load_measurements


def test_no_cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["profile", "-o", str(tmp_path / "p.json")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "needs a CUDA GPU" in error
    assert "meshwright clusters" in error
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "-o", str(tmp_path / "nowhere" / "p.json")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_bad_input_is_told_before_pytorch_is_loaded(tmp_path: Path) -> None:
    options = [["-o", "nowhere/p.json"], ["--base", "no-such"], ["--measurements", "profile.json"]]
    calls = [["profile", *asked] for asked in options]
    code = f"import sys; from meshwright.cli import main; print([main(c) for c in {calls}], 'torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3] / "src"), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[2, 2, 2] False\n"
    assert done.stderr.count("\n") == 3
    assert list(tmp_path.iterdir()) == []


def test_everything_is_written_and_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def build_profile(measurements: Measurements, *, base: HardwareProfile) -> HardwareProfile:
        assert measurements.samples
        return base

    builder = types.ModuleType("meshwright.hardware_profiles.build")
    builder.build_profile = build_profile  # type: ignore[attr-defined]  # as the module has it
    monkeypatch.setitem(sys.modules, "meshwright.hardware_profiles.build", builder)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    request = ProfileRequest(
        output=tmp_path / "p.json",
        measurements=tmp_path / "m.json",
        extent=Extent.TINY,
        base="h100",
        on_gpus=False,
    )
    profile.run(request)
    printed = capsys.readouterr().out
    assert "dense product, BF16" in printed
    assert "Not measured: 1" in printed
    assert f"profile written to {request.output}" in printed
    assert load_measurements(request.measurements).machine.gpu == "none"
    assert load_profile(request.output) == load_profile("h100")
    assert {path.name for path in tmp_path.iterdir()} == {"p.json", "m.json"}
    assert msgspec.json.decode(request.measurements.read_bytes())["schema_version"] == 1


def test_a_profile_of_what_an_interrupted_run_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = load_measurements(MEASUREMENTS_FOLDER / "h100.json")
    journal = Journal(tmp_path / "my.json.partial.jsonl", "machine", restart=False, num_samples=len(whole.samples))
    journal.add("machine", Described(machine=whole.machine))
    for number, sample in enumerate(whole.samples[:40]):
        journal.add(str(number), Measured(sample=sample))
    output = tmp_path / "out.json"
    assert main(["profile", "--rebuild", str(journal.path), "-o", str(output)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "usable memory" in printed
    assert f"has 40 of {len(whole.samples)} results" in printed
    kept = load_measurements(tmp_path / "out.measurements.json")
    assert not kept.complete
    assert len(kept.samples) == 40
    assert any("incomplete" in citation.text for citation in load_profile(output).citations)
    assert main(["profile", "--rebuild", str(tmp_path / "out.measurements.json"), "-o", str(tmp_path / "b.json")]) == 0
    assert load_profile(tmp_path / "b.json") == load_profile(output)
