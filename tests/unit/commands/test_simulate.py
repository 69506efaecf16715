from __future__ import annotations

import json
from pathlib import Path

import pytest

from meshwright.cli import main
from meshwright.planner.plan import Plan
from meshwright.planner.serialise import write_plan


@pytest.fixture
def plan_file(tiny_plan: Plan, tmp_path: Path) -> str:
    write_plan(tiny_plan, tmp_path / "plan.json")
    return str(tmp_path / "plan.json")


def test_a_plan_gives_its_own_prediction(plan_file: str, tiny_plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", plan_file, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["prediction"] == data["planned"]
    assert data["prediction"]["step_time_s"] == tiny_plan.prediction.step_time_s
    assert (data["fits"], data["over_limit"], data["changes"], data["warnings"]) == (True, [], [], [])


def test_changes_are_in_the_json(plan_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", plan_file, "--set", "seq_len=4096", "--set", "network_bytes_per_s=2x", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["changes"] == [
        {"key": "cluster.network_bytes_per_s", "before": 50e9, "after": 100e9},
        {"key": "workload.seq_len", "before": 2048, "after": 4096},
    ]
    assert data["prediction"]["step_time_s"] > data["planned"]["step_time_s"]


def test_what_does_not_fit_is_an_answer(plan_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", plan_file, "--set", "usable_memory_bytes=2 GiB", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["fits"] is False
    assert data["over_limit"][0]["over_bytes"] > 0
    assert main(["simulate", plan_file, "--set", "usable_memory_bytes=2 GiB"]) == 0
    assert "does not fit: stage " in capsys.readouterr().out


def test_the_tables_show_both_predictions(plan_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", plan_file, "--set", "gpu=h800"]) == 0
    printed = capsys.readouterr().out
    assert "cluster.gpu: H100 SXM 80GB -> H800 SXM 80GB" in printed
    assert "step time" in printed
    assert max(map(len, printed.splitlines())) <= 120


def test_a_warning_is_printed(plan_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(plan_file)
    path.write_text(path.read_text().replace('"profile_hash": "', '"profile_hash": "0'))
    assert main(["simulate", plan_file, "--set", "seq_len=4096"]) == 0
    assert "note: the profile h100 changed since this plan was made" in capsys.readouterr().out


def test_an_unknown_key_is_one_line(plan_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", plan_file, "--set", "sequence_len=4096"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    near = "layers.sequence_parallel or workload.seq_len"
    assert captured.err == f"meshwright: error: --set: sequence_len: unknown key; did you mean {near}?\n"


# Sweeps.


def _sweep(plan_file: str, *arguments: str) -> int:
    return main(["simulate", plan_file, *arguments])


def test_a_sweep_is_a_table_behind_the_plan(plan_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _sweep(plan_file, "--sweep", "nvlink_bytes_per_s=300..600:150 GB/s", "--sweep", "top_k=2,9") == 0
    printed = capsys.readouterr().out
    assert printed.startswith("tiny: 6 of 6 points\n")
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    assert sum(line.startswith("the plan 450 GB/s 2") for line in lines) == 1
    assert sum(line.endswith("moe top_k: 9 is more than num_experts 8") for line in lines) == 3


def test_a_sweep_as_json_csv_and_picture(plan_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    csv, png = tmp_path / "points.csv", tmp_path / "points.png"
    arguments = ("--sweep", "gpu=h100,h200,a100", "--set", "precision=fp8", "--json")
    assert _sweep(plan_file, *arguments, "--csv", str(csv), "--plot", str(png)) == 0
    data = json.loads(capsys.readouterr().out)
    assert [row["values"] for row in data["rows"]] == [["H100 SXM 80GB"], ["H200 SXM 141GB"], ["A100 SXM 80GB"]]
    assert data["rows"][2]["held"] is None
    assert "fp8" in data["rows"][2]["reason"]
    assert len(csv.read_text().splitlines()) == 4
    assert png.read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in tmp_path.iterdir()} == {"plan.json", "points.csv", "points.png"}


def test_replan_without_a_sweep_plans_at_the_one_point(plan_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _sweep(plan_file, "--set", "seq_len=1024", "--replan", "--json") == 0
    one = json.loads(capsys.readouterr().out)
    assert _sweep(plan_file, "--sweep", "seq_len=1024", "--replan", "--json") == 0
    assert one == json.loads(capsys.readouterr().out)
    assert (one["num_points"], one["replanned"], len(one["rows"])) == (1, True, 1)
    assert _sweep(plan_file, "--replan") == 0
    assert "1 of 1 points" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--sweep", "seq_len"), "--sweep: seq_len: expected key=v1,v2,... with at least one value"),
        (("--sweep", "seq_len="), "--sweep: seq_len=: expected key=v1,v2,... with at least one value"),
        (("--sweep", "seq_len=1,,2"), "--sweep: seq_len: has an empty value"),
        (("--sweep", "seq_len=5..1"), "--sweep: seq_len: '5..1' holds no value"),
        (("--sweep", "seqlen=1"), "--sweep: seqlen: unknown key; did you mean workload.seq_len?"),
        (("--sweep", "seq_len=2048,long"), "--sweep: workload.seq_len: 'long' is not a positive whole number"),
        (("--sweep", "network_bytes_per_s=4 GB"), "--sweep: cluster.network_bytes_per_s: unit 'GB' of '4 GB' is not"),
        (("--sweep", "seq_len=1,1"), "--sweep: seq_len: value '1' is given twice"),
        (("--sweep", "seq_len=1", "--sweep", "workload.seq_len=2"), "--sweep: workload.seq_len: is given twice"),
        (("--sweep", "seq_len=1", "--set", "seq_len=2"), "--sweep: workload.seq_len: is set as well"),
        (
            ("--sweep", "seq_len=1..1000", "--sweep", "global_batch=1..1000"),
            "--sweep: 1,000,000 points (1,000 x 1,000); more than 10,000 are evaluated only with --force",
        ),
        (("--csv", "x.csv"), "--csv: needs --sweep or --replan"),
        (("--plot", "x.png"), "--plot: needs --sweep"),
        (("--fix", "tp=2"), "--fix: needs --sweep or --replan"),
        (("--replan", "--plot", "x.png"), "--plot: needs --sweep"),
        (("--sweep", "seq_len=2048", "--plot", "curve.xyz"), "--plot: curve.xyz: is no PNG file; expected a name"),
        (("--sweep", "seq_len=2048", "--metric", "mfu"), "--metric: needs --plot"),
        (("--sweep", "seq_len=2048", "--trace", "x.json"), "--trace: needs no --sweep"),
        (("--sweep", "seq_len=2048", "--workers", "0"), "--workers: 0 is not a positive whole number"),
        (("--sweep", "seq_len=2048", "--fix", "tp=2"), "--fix: pins choices of a search; it needs --replan"),
        (("--sweep", "mesh.order=pp-outermost", "--replan"), "--replan: mesh.order: cannot be pinned in a search"),
    ],
)
def test_what_cannot_be_swept_is_one_line(
    plan_file: str, arguments: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _sweep(plan_file, *arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"meshwright: error: {expected}"), captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("option", ["--csv", "--plot"])
def test_what_cannot_be_written_is_refused_before_anything_is_computed(
    plan_file: str, option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshwright.planner.sweep.run._collect", _never)
    assert _sweep(plan_file, "--sweep", "seq_len=2048,4096", option, str(tmp_path / "none" / "file")) == 2
    assert "cannot be written: there is no directory" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_an_unknown_metric_is_refused_before_anything_is_computed(
    plan_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshwright.planner.sweep.run._collect", _never)
    plot = ("--plot", str(tmp_path / "x.png"))
    assert _sweep(plan_file, "--sweep", "seq_len=2048", *plot, "--metric", "steptime") == 2
    assert "--metric: steptime: unknown; did you mean step_time?" in capsys.readouterr().err


def _never(*_: object) -> None:
    raise AssertionError("computed before it was checked")


def test_an_interrupted_sweep_keeps_its_points(
    plan_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from meshwright.planner.sweep.evaluate import Evaluator
    from meshwright.planner.sweep.row import SweepRow

    whole = Evaluator.row

    def interrupted(self: Evaluator, index: int) -> SweepRow:
        if index == 2:
            raise KeyboardInterrupt
        return whole(self, index)

    monkeypatch.setattr(Evaluator, "row", interrupted)
    csv = tmp_path / "points.csv"
    assert _sweep(plan_file, "--sweep", "top_k=1,2,3,4", "--csv", str(csv)) == 130
    captured = capsys.readouterr()
    assert captured.out.startswith("tiny: 2 of 4 points")
    assert "partial: interrupted; 2 of 4 points are missing" in captured.out
    assert captured.err == "meshwright: interrupted: 2 of 4 points\n"
    assert len(csv.read_text().splitlines()) == 3


def test_a_trace_is_of_the_changed_step(
    plan_file: str, tmp_path: Path, tiny_plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "trace.json"
    assert main(["simulate", plan_file, "--set", "seq_len=4096", "--trace", str(trace), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    about = json.loads(trace.read_text())["otherData"]
    assert about["step_time_s"] == data["prediction"]["step_time_s"] > tiny_plan.prediction.step_time_s
