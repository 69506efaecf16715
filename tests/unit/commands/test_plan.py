from __future__ import annotations

import json
from pathlib import Path

import pytest

from meshwright.cli import main
from meshwright.commands.plan import progress_text
from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.errors import InfeasibleError
from meshwright.costmodel.runtime import RuntimeSpec
from meshwright.costmodel.step import predict
from meshwright.planner import search as search_module
from meshwright.planner.plan import Plan
from meshwright.planner.search import SearchProgress, SearchResult
from meshwright.planner.serialise import plan_json, read_plan
from meshwright.planner.space import Problem

OPTIONS = ("--cluster", "h100", "--gpus", "8", "--global-batch", "16", "--seq-len", "2048")


@pytest.fixture
def model_file(tmp_path: Path, tiny_config: dict[str, object]) -> str:
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(tiny_config))
    return str(path)


@pytest.fixture
def problems(
    monkeypatch: pytest.MonkeyPatch, tiny_configuration: TrainingConfiguration, tiny_plan: Plan
) -> list[Problem]:
    """Puts the tiny plan in the place of a search; gives the problems that were asked for."""
    asked: list[Problem] = []

    def found(problem: Problem, *, top: int, runtime: RuntimeSpec) -> SearchResult:
        assert runtime.name == "meshwright"
        asked.append(problem)
        return SearchResult(
            configuration=tiny_configuration,
            prediction=predict(tiny_configuration),
            certificate=tiny_plan.search,
            alternatives=tiny_plan.alternatives[:top],
        )

    monkeypatch.setattr(search_module, "search", found)
    return asked


def test_options_become_the_problem(model_file: str, problems: list[Problem]) -> None:
    arguments = ["plan", model_file, *OPTIONS, "--precision", "fp8", "--expert-imbalance", "1.5"]
    assert main([*arguments, "--fix", "pp=2,sp=2", "--fix", "ep=4"]) == 0
    (problem,) = problems
    assert (problem.model.name, problem.model.num_layers) == ("tiny", 4)
    assert (problem.cluster.name, problem.cluster.num_gpus) == ("h100", 8)
    assert (problem.workload.global_batch, problem.workload.seq_len) == (16, 2048)
    assert (problem.workload.precision, problem.workload.expert_imbalance) == ("fp8", 1.5)
    assert (problem.fixes.pp, problem.fixes.sp, problem.fixes.ep) == (2, 2, 4)


def test_without_a_number_the_cluster_is_one_node(model_file: str, problems: list[Problem]) -> None:
    assert main(["plan", model_file, "--cluster", "h100", "--global-batch", "16", "--seq-len", "2048"]) == 0
    assert problems[0].cluster.num_gpus == 8


@pytest.mark.usefixtures("problems")
def test_json_is_the_plan_and_nothing_else(
    model_file: str, tiny_plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", model_file, *OPTIONS, "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.out.encode() == plan_json(tiny_plan)
    assert captured.err == ""


@pytest.mark.usefixtures("problems")
def test_the_plan_is_written(model_file: str, tiny_plan: Plan, tmp_path: Path) -> None:
    assert main(["plan", model_file, *OPTIONS, "-o", str(tmp_path / "plan.json")]) == 0
    assert read_plan(tmp_path / "plan.json") == tiny_plan


@pytest.mark.usefixtures("problems")
def test_the_report_can_be_read_when_piped(model_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", model_file, *OPTIONS]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "\x1b" not in captured.out
    for title in ("Mesh", "Layers", "Pipeline", "Memory of", "Where the step goes", "Runners-up", "Certificate"):
        assert any(line.startswith(title) for line in captured.out.splitlines()), title
    assert max(map(len, captured.out.splitlines())) <= 120


@pytest.mark.usefixtures("problems")
def test_runners_up_can_be_left_out(model_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", model_file, *OPTIONS, "--top", "0"]) == 0
    assert "Runners-up" not in capsys.readouterr().out


def test_what_does_not_fit_ends_with_1_and_writes_nothing(
    model_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nothing_fits(problem: Problem, **_: object) -> SearchResult:
        raise InfeasibleError(f"no plan fits {problem.model.name}")

    monkeypatch.setattr(search_module, "search", nothing_fits)
    output = tmp_path / "plan.json"
    assert main(["plan", model_file, *OPTIONS, "--json", "-o", str(output)]) == 1
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "meshwright: no plan fits tiny\n")
    assert not output.exists()


def test_progress_is_one_line() -> None:
    start = SearchProgress(candidates=1200, remaining=1200, solved=0, best_s=None, lower_bound_s=0.0)
    assert progress_text(start) == "0 of 1,200 candidates, 0 solved, best none yet"
    later = SearchProgress(candidates=1200, remaining=200, solved=7, best_s=4.19, lower_bound_s=4.1)
    assert progress_text(later) == "1,000 of 1,200 candidates, 7 solved, best 4.19 s, lower bound 4.1 s"
