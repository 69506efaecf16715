"""Bad input through the command line: one clear line on stderr, exit status 2, nothing on stdout, nothing written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from meshwright.cli import main
from meshwright.planner.plan import Plan
from meshwright.planner.serialise import write_plan

CLUSTER = """\
name: mine
gpu: h100
gpus_per_node: 8
network: 400 Gbit/s
network_latency: 3 us
nvlink_latency: 0.5 us
host_memory: 1 TB
"""
OPTIONS = ("--cluster", "h100", "--global-batch", "16", "--seq-len", "2048")

Refused = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command line that must be refused; gives the message without its prefix."""

    def run(*arguments: str) -> str:
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        status = main(list(arguments))
        captured = capsys.readouterr()
        assert status == 2
        assert captured.out == ""
        assert captured.err.startswith("meshwright: error: ")
        assert captured.err.count("\n") == 1
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
        return captured.err.removeprefix("meshwright: error: ").rstrip("\n")

    return run


@pytest.fixture
def config(tmp_path: Path, tiny_config: dict[str, object]) -> Callable[..., str]:
    """Writes the tiny config.json with changed fields (None removes one); gives its path."""

    def write(**changes: object) -> str:
        fields = {name: value for name, value in (tiny_config | changes).items() if value is not None}
        path = tmp_path / "config.json"
        path.write_text(json.dumps(fields))
        return str(path)

    return write


@pytest.fixture
def planned(tmp_path: Path, tiny_plan: Plan) -> Path:
    path = tmp_path / "plan.json"
    write_plan(tiny_plan, path)
    return path


# Models.


def test_an_unknown_preset_names_the_nearest(refused: Refused) -> None:
    message = refused("plan", "mixtral-8x21b", *OPTIONS)
    assert message.startswith("mixtral-8x21b: no such preset or file, nearest presets: mixtral-8x22b")


def test_a_missing_config(refused: Refused, tmp_path: Path) -> None:
    path = str(tmp_path / "nowhere.json")
    assert refused("plan", path, *OPTIONS) == f"{path}: no such file, expected a Hugging Face config.json"


@pytest.mark.parametrize("text", ['{"model_type": "mixtral", "hidden_si', "", "not JSON at all", "\x00\x01"])
def test_a_truncated_or_non_json_config(refused: Refused, tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    assert refused("plan", str(path), *OPTIONS).startswith(f"{path}: not JSON")


def test_an_unknown_architecture(refused: Refused, config: Callable[..., str]) -> None:
    message = refused("plan", config(model_type="mamba"), *OPTIONS)
    assert "model_type: 'mamba' is not an architecture known here, expected one of" in message


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("hidden_size", None, "hidden_size: missing"),
        ("hidden_size", -1024, "hidden_size: -1024"),
        ("hidden_size", "wide", "hidden_size: 'wide'"),
        ("num_hidden_layers", 0, "num_hidden_layers: 0"),
        ("num_hidden_layers", 4.5, "num_hidden_layers: 4.5"),
        ("num_key_value_heads", 3, "num_key_value_heads: 3, expected a divisor of num_attention_heads 8"),
        ("num_experts_per_tok", 9, "num_experts_per_tok: 9, expected a whole number between 1 and 8"),
        ("vocab_size", float("nan"), "vocab_size: nan"),
        ("intermediate_size", 10**40, "intermediate_size: "),
    ],
)
def test_an_absurd_field(
    refused: Refused, config: Callable[..., str], field: str, value: object, expected: str
) -> None:
    path = config(**{field: value})
    message = refused("plan", path, *OPTIONS)
    assert message.startswith(f"{path}: ")
    assert expected in message


# Clusters.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (CLUSTER + "fabric: infiniband\n", "fabric: unknown key"),
        (CLUSTER.replace("400 Gbit/s", "400 GB"), "network: unit 'GB' of '400 GB' is not one of"),
        (CLUSTER.replace("400 Gbit/s", "400"), "network: 400 is not a number with a unit"),
        (CLUSTER.replace("400 Gbit/s", "0 Gbit/s"), "network: '0 Gbit/s' is not a positive finite quantity"),
        (CLUSTER.replace("gpu: h100", "gpu: h1000"), "gpu: "),
        (CLUSTER.replace("gpus_per_node: 8", "gpus_per_node: -8"), "gpus_per_node: -8 is not a positive whole number"),
        (CLUSTER.replace("host_memory: 1 TB\n", ""), "host_memory: is missing"),
        ("- a list\n", "expected a mapping"),
        ("name: [unclosed\n", "is not YAML"),
    ],
)
def test_a_wrong_cluster_file(
    refused: Refused, config: Callable[..., str], tmp_path: Path, text: str, expected: str
) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    message = refused("plan", config(), "--cluster", str(path), "--global-batch", "16", "--seq-len", "2048")
    assert message.startswith(f"{path}: {expected}")


def test_an_unknown_cluster(refused: Refused, config: Callable[..., str]) -> None:
    message = refused("plan", config(), "--cluster", "h10", "--global-batch", "16", "--seq-len", "2048")
    assert message.startswith("cluster: h10: no such preset, did you mean 'h100'?")


@pytest.mark.parametrize(
    ("gpus", "expected"),
    [
        ("12", "--gpus: 12 GPUs are not a multiple of the 8 GPUs of a node"),
        ("0", "--gpus: 0 is not a positive whole number"),
        ("-8", "--gpus: -8 is not a positive whole number"),
    ],
)
def test_a_number_of_gpus_that_is_none(refused: Refused, config: Callable[..., str], gpus: str, expected: str) -> None:
    assert refused("plan", config(), *OPTIONS, "--gpus", gpus) == expected


# Workload and options.


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--global-batch", "0"), "workload: global_batch: 0 is not a positive whole number"),
        (("--seq-len", "-1"), "workload: seq_len: -1 is not a positive whole number"),
        (("--seq-len", "many"), "Invalid value for '--seq-len': "),
        (("--precision", "fp4"), "--precision: fp4: is unknown; expected bf16 or fp8"),
        (("--expert-imbalance", "0.5"), "workload: expert_imbalance: 0.5 is not a number >= 1"),
        (("--expert-imbalance", "nan"), "workload: expert_imbalance: nan is not a number >= 1"),
        (("--cluster", "a100", "--precision", "fp8"), "A100 SXM 80GB: precision: this GPU has no FP8"),
        (("--top", "-1"), "Invalid value for '--top'"),
    ],
)
def test_a_wrong_option(
    refused: Refused, config: Callable[..., str], arguments: tuple[str, ...], expected: str
) -> None:
    assert refused("plan", config(), *OPTIONS, *arguments).startswith(expected)


def test_a_missing_option(refused: Refused) -> None:
    message = refused("plan", "llama-3.1-8b", "--cluster", "h100", "--seq-len", "4096")
    assert message == "Missing option '--global-batch'."


def test_a_batch_that_cannot_be_shared(refused: Refused, config: Callable[..., str]) -> None:
    arguments = ("--cluster", "h100", "--gpus", "1024", "--global-batch", "9", "--seq-len", "2048")
    message = refused("plan", config(), *arguments)
    assert message.startswith("--global-batch: 9 sequences cannot be shared by any legal dp x micro-batch on 1024 GPUs")
    assert "dp can be 32, 64" in message


@pytest.mark.parametrize(
    ("fixes", "expected"),
    [
        ("tp", "--fix: tp: expected key=value"),
        ("tp=2,tp=4", "--fix: tp: is given twice"),
        ("tpp=2", "--fix: tpp: unknown choice; did you mean tp?"),
        ("tp=0", "--fix: tp: '0' is not a positive whole number"),
        ("attention=ulysses,tp=2", "--fix: attention: ulysses contradicts tp=2"),
        ("sp=3", "--fix: sp=3: cannot split 8 heads with 4 key-value heads evenly; tp x sp can be 1, 2, 4, 8"),
        ("tp=2,pp=3", "--fix: tp=2 pp=3: product 6 does not divide 8 GPUs; pp can be 1, 2, 4"),
        ("ep=3", "--fix: ep=3: does not divide 8 experts; ep can be 1, 2, 4, 8"),
        ("pp=2,vp=4", "--fix: pp=2 vp=4: 8 virtual stages need a layer each, tiny has 4; vp can be 1 to 2"),
    ],
)
def test_a_choice_that_cannot_be_met(
    refused: Refused, config: Callable[..., str], tmp_path: Path, fixes: str, expected: str
) -> None:
    path = Path(config()).rename(tmp_path / "tiny.json")
    assert refused("plan", str(path), *OPTIONS, "--fix", fixes).startswith(expected)


def test_experts_in_a_dense_model(refused: Refused) -> None:
    message = refused("plan", "llama-3.1-8b", *OPTIONS, "--fix", "ep=2")
    assert message == "--fix: ep=2: llama-3.1-8b is dense, it has no experts; ep can be 1"


# Plan files.


def test_a_missing_plan(refused: Refused, tmp_path: Path) -> None:
    assert "no such file" in refused("simulate", str(tmp_path / "plan.json"))


def test_a_truncated_plan(refused: Refused, planned: Path) -> None:
    planned.write_bytes(planned.read_bytes()[:-100])
    assert refused("simulate", str(planned)).startswith(f"{planned}: not JSON")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('"schema_version": 2', '"schema_version": 7', "schema_version: 7; this meshwright reads version 2"),
        ('"num_gpus": 8', '"num_gpus": -8', "cluster.num_gpus: expected int >= 1"),
        ('"pp": 2', '"pp": "two"', "mesh.pp: expected int, got str"),
        ('"step_time_s"', '"step_time"', "prediction.step_time: unknown field"),
        ('"hidden": 1024', '"hidden": 4096', "model.hash: "),
    ],
)
def test_a_plan_edited_into_nonsense(refused: Refused, planned: Path, old: str, new: str, expected: str) -> None:
    text = planned.read_text()
    assert old in text
    planned.write_text(text.replace(old, new, 1))
    assert refused("simulate", str(planned)).startswith(f"{planned}: {expected}")


def test_a_plan_of_another_model(refused: Refused, planned: Path) -> None:
    data = json.loads(planned.read_text())
    data["model"]["layer_runs"][0]["layer"]["ffn"]["num_experts"] = 16
    planned.write_text(json.dumps(data))
    assert "is of another model than the one in the plan" in refused("simulate", str(planned))


# Outputs.


def test_an_output_that_cannot_be_written_is_refused_before_the_search(
    refused: Refused, config: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from meshwright.planner import search as search_module

    def never(*_: object, **__: object) -> None:
        pytest.fail("searched before the output was checked")

    monkeypatch.setattr(search_module, "search", never)
    missing, read_only = tmp_path / "nowhere" / "plan.json", tmp_path / "read-only.json"
    read_only.write_text("keep me")
    read_only.chmod(0o444)
    for path in (missing, tmp_path, read_only):
        message = refused("plan", config(), *OPTIONS, "-o", str(path))
        assert message.startswith(f"{path}: cannot be written: ")


def test_a_process_ends_with_2_and_one_line(repository: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": str(repository / "src")}
    command = [sys.executable, "-m", "meshwright", "simulate", str(tmp_path / "plan.json")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        f"meshwright: error: {tmp_path / 'plan.json'}: no such file, expected a plan written by `meshwright plan -o`"
    ]
