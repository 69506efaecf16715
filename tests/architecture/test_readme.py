"""What the documents tell a reader to type exists: scripts, commands, flags, links."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from meshwright.cli import COMMANDS, EXAMPLES, load_command, main
from meshwright.costmodel.errors import InfeasibleError
from meshwright.planner.space import Problem

DOCUMENTS = ("README.md", "CONTRIBUTING.md")
BLOCK = re.compile(r"^```(?:sh|console)\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")
ROOT = Path(__file__).resolve().parents[2]


def _command_lines(document: str) -> list[list[str]]:
    text = (ROOT / document).read_text(encoding="utf-8")
    lines = "\n".join(BLOCK.findall(text)).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def _meshwright_lines() -> list[list[str]]:
    lines = [words for document in DOCUMENTS for words in _command_lines(document)]
    lines += [shlex.split(line) for line in EXAMPLES.splitlines()]
    return [words[1:] for words in lines if words and Path(words[0]).name == "meshwright"]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_scripts_exist_and_can_be_run(document: str) -> None:
    scripts = [words[0] for words in _command_lines(document) if words[0].startswith(("scripts/", ".ci/"))]
    assert scripts
    for script in scripts:
        assert (ROOT / script).stat().st_mode & 0o100, f"{script} is not executable"


@pytest.mark.parametrize("words", _meshwright_lines(), ids=" ".join)
def test_commands_and_flags_exist(words: list[str]) -> None:
    name, *arguments = words
    assert name in COMMANDS
    known = {option for parameter in load_command(name).params for option in parameter.opts}
    assert {argument for argument in arguments if re.match(r"--?[a-z]", argument)} <= known | {"--help"}


def test_ci_runs_the_test_command_of_the_readme() -> None:
    tests = [words for words in _command_lines("README.md") if words[0] == "scripts/check"]
    assert tests
    assert " ".join(tests[0]) in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("document", [*DOCUMENTS, "docs/notation.md", "docs/defense_of_design.md"])
def test_links_lead_somewhere(document: str) -> None:
    folder = (ROOT / document).parent
    targets = LINK.findall((ROOT / document).read_text(encoding="utf-8"))
    assert [target for target in targets if not (folder / target).exists()] == []


def test_the_main_command_asks_for_the_main_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's first command gets as far as the search, for the paper's model on its cluster."""
    from meshwright.planner import search as search_module

    asked = []

    def noted(problem: Problem, **_: object) -> None:
        asked.append(problem)
        raise InfeasibleError("enough seen")

    monkeypatch.setattr(search_module, "search", noted)
    monkeypatch.chdir(tmp_path)
    first = next(words for words in _command_lines("README.md") if Path(words[0]).name == "meshwright")
    assert main(first[1:]) == 1
    (problem,) = asked
    assert (problem.model.name, problem.cluster.name, problem.cluster.num_gpus) == ("internal-352b", "h800", 1440)
    assert (problem.workload.global_batch, problem.workload.seq_len) == (720, 8192)
