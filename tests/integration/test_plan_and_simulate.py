"""The two commands together, with the real search: a plan is written, and predicted again to the last digit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from meshwright.cli import main


@pytest.fixture
def arguments(tmp_path: Path, tiny_config: dict[str, object]) -> list[str]:
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(tiny_config))
    return ["plan", str(path), "--cluster", "h100", "--global-batch", "16", "--seq-len", "2048"]


def test_a_plan_keeps_its_promise(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "plan.json"
    assert main([*arguments, "--fix", "pp=2,sp=2,ep=4,schedule=1f1b,mbs=1", "--json", "-o", str(output)]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan == json.loads(output.read_text())
    assert (plan["mesh"]["pp"], plan["mesh"]["sp"], plan["mesh"]["ep"]) == (2, 2, 4)
    assert plan["search"]["lower_bound_s"] <= plan["prediction"]["step_time_s"]
    assert main(["simulate", str(output), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["prediction"] == plan["prediction"]


def test_what_cannot_fit_says_which_limit_binds(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = tmp_path / "small.yaml"
    cluster.write_text(
        "name: small\ngpu: h100\ngpus_per_node: 8\nmemory: 1.7 GB\nnetwork: 400 Gbit/s\nnetwork_latency: 3 us\n"
        "nvlink_latency: 0.5 us\nhost_memory: 1 TB\n"
    )
    output = tmp_path / "plan.json"
    small = [*arguments, "--cluster", str(cluster), "--fix", "pp=2,sp=2,ep=4,schedule=1f1b,mbs=1", "-o", str(output)]
    assert main(small) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("meshwright: no plan fits")
    assert "over the limit" in captured.err
    assert not output.exists()
