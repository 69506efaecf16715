"""What is refused before any rank starts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from meshwright.costmodel.errors import InputError, PlanError
from meshwright.costmodel.model import ModelSpec, with_num_layers
from meshwright.costmodel.presets import load_model
from meshwright.costmodel.workload import Workload
from meshwright.executor.checkpoint.folder import CheckpointFolder
from meshwright.executor.data.token_writer import write_tokens
from meshwright.executor.train.entry import run
from meshwright.executor.train.record import RunRecord
from meshwright.executor.train.request import DeviceChoice, RunRequest
from meshwright.executor.train.trainer import LossError
from meshwright.hardware_profiles import load_cluster
from meshwright.planner.fixes import parse_fixes
from meshwright.planner.plan import Plan
from meshwright.planner.plan_conversion import build_plan
from meshwright.planner.search import search
from meshwright.planner.serialise import write_plan
from meshwright.planner.space import Problem


def refuse(plan: Plan, folder: Path, **request: Any) -> InputError:  # noqa: ANN401  fields of the request
    """What is said, with nothing started and nothing left behind."""
    write_plan(plan, folder / "plan.json")
    asked = RunRequest(
        plan=folder / "plan.json", output=folder / "run", num_steps=1, device=DeviceChoice.CPU, **request
    )
    with pytest.raises(InputError) as refused:
        run(asked, (), lambda _: None)
    assert not (folder / "run").exists()
    assert "\n" not in str(refused.value)
    return refused.value


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    """A token file with ids 0 to 299, beyond the tiny model's 256."""
    path = tmp_path / "tokens.bin"
    write_tokens([range(300)], path, vocabulary=300, tokenizer="none", end_of_document=None)
    return path


def test_missing_data(tiny_plan: Plan, tmp_path: Path) -> None:
    assert "no-such.bin" in str(refuse(tiny_plan, tmp_path, data=str(tmp_path / "no-such.bin")))


def test_a_folder_as_data(tiny_plan: Plan, tmp_path: Path) -> None:
    refused = refuse(tiny_plan, tmp_path, data=str(tmp_path))
    assert str(refused).startswith(f"{tmp_path}: a folder, expected a file of tokens")


def test_balanced_experts_of_a_dense_model(tmp_path: Path) -> None:
    dense = plan_for_one(with_num_layers(load_model("qwen3-0.6b"), 1))
    assert str(refuse(dense, tmp_path, balanced=True)) == "--balanced: the plan's model has no experts"


def test_truncated_data(tiny_plan: Plan, tmp_path: Path, tokens: Path) -> None:
    tokens.write_bytes(tokens.read_bytes()[:-2])
    assert str(tokens) in str(refuse(tiny_plan, tmp_path, data=str(tokens)))


def test_a_token_beyond_the_vocabulary(tiny_plan: Plan, tmp_path: Path, tokens: Path) -> None:
    assert str(refuse(tiny_plan, tmp_path, data=str(tokens))) == (
        f"{tokens}: token 256: 256, beyond the model's vocabulary; expected an id below 256"
    )


def plan_for_one(model: ModelSpec) -> Plan:
    """A model on one rank."""
    problem = Problem(
        model=model,
        cluster=load_cluster("h100").with_gpus(1),
        workload=Workload(global_batch=4, seq_len=16),
        fixes=parse_fixes(("mbs=4",)),
    )
    found = search(problem, top=0)
    return build_plan(found.configuration, found.prediction, found.certificate)


@pytest.fixture(scope="session")
def tiny_model(repository: Path) -> ModelSpec:
    return load_model(str(repository / "docs" / "tiny_moe.json"))


@pytest.fixture(scope="session")
def lone_plan(tiny_model: ModelSpec) -> Plan:
    """The tiny model on one rank."""
    return plan_for_one(tiny_model)


def start(plan: Plan, folder: Path, num_steps: int = 1, **request: Any) -> RunRecord | None:  # noqa: ANN401  as above
    """A run on this very process, with checkpoints."""
    write_plan(plan, folder / "plan.json")
    asked = RunRequest(
        plan=folder / "plan.json",
        output=folder / "run",
        num_steps=num_steps,
        device=DeviceChoice.CPU,
        checkpoint=folder / "saved",
        **request,
    )
    return run(asked, (), lambda _: None)


def test_nothing_to_resume(tiny_plan: Plan, tmp_path: Path) -> None:
    refused = refuse(tiny_plan, tmp_path, checkpoint=tmp_path / "saved", resume=True)
    assert str(refused) == f"{tmp_path / 'saved'}: no checkpoint to resume; begin without --resume"


def test_a_checkpoint_of_another_model(lone_plan: Plan, tiny_model: ModelSpec, tmp_path: Path) -> None:
    start(lone_plan, tmp_path)
    shutil.rmtree(tmp_path / "run")
    other = plan_for_one(with_num_layers(tiny_model, 2))
    refused = refuse(other, tmp_path, checkpoint=tmp_path / "saved", resume=True)
    assert "step-000000000001: model_sha256: " in str(refused)
    assert "this run's model" in str(refused)


def test_a_plan_of_another_model_than_its_hash_says(lone_plan: Plan, tmp_path: Path) -> None:
    other = replace(lone_plan, model=replace(lone_plan.model, vocab=512))
    assert "plan.json: model.hash: " in str(refuse(other, tmp_path))


def test_a_checkpoint_that_is_not_whole(lone_plan: Plan, tmp_path: Path) -> None:
    start(lone_plan, tmp_path)
    shutil.rmtree(tmp_path / "run")
    (tensors,) = (tmp_path / "saved" / "step-000000000001").glob("*.distcp")
    tensors.write_bytes(tensors.read_bytes()[:-1])
    refused = refuse(lone_plan, tmp_path, checkpoint=tmp_path / "saved", resume=True)
    assert f"{tensors}: " in str(refused)
    assert "the checkpoint is not whole" in str(refused)


def test_a_damaged_newest_checkpoint_is_told_of(
    lone_plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start(lone_plan, tmp_path, 2, save_every=1)
    newest = CheckpointFolder(path=tmp_path / "saved").of_step(2)
    data = next(newest.glob("*.distcp"))
    size = data.stat().st_size
    data.write_bytes(data.read_bytes()[:100])
    capsys.readouterr()
    start(lone_plan, tmp_path, 3, resume=True)
    told = [line for line in capsys.readouterr().err.splitlines() if "skipped" in line]
    assert told == [
        f"meshwright: run: skipped: {data}: 100 bytes, expected {size:,} bytes: the checkpoint is not whole;"
        " resumes from step-000000000001"
    ]


def test_a_checkpoint_whose_contents_have_changed_is_told_of(
    lone_plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start(lone_plan, tmp_path, 2, save_every=1)
    data = next(CheckpointFolder(path=tmp_path / "saved").of_step(2).glob("*.distcp"))
    with data.open("r+b") as file:
        file.seek(9000)
        file.write(b"\xff" * 8)
    capsys.readouterr()
    summary = start(lone_plan, tmp_path, 3, resume=True)
    assert summary is not None
    assert summary.first_step == 1
    (told,) = (line for line in capsys.readouterr().err.splitlines() if "skipped" in line)
    assert told.startswith(f"meshwright: run: skipped: {data}: CRC-32 ")
    assert told.endswith(": the checkpoint is damaged; resumes from step-000000000001")


def test_checkpoints_of_an_earlier_run_are_not_pushed_out(lone_plan: Plan, tmp_path: Path) -> None:
    start(lone_plan, tmp_path)
    shutil.rmtree(tmp_path / "run")
    refused = refuse(lone_plan, tmp_path, checkpoint=tmp_path / "saved")
    assert "has step-000000000001 of an earlier run; --resume goes on" in str(refused)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": "zipf"}, "saved: data.source: markov of 256, branching 4, but this run has zipf of 256"),
        ({"seed": 5}, "saved: data.seed: 0, but this run has 5"),
        ({"model": True}, "saved: numerics.norm_epsilon: 1e-06, but this run has 0.5"),
    ],
)
def test_other_data_or_numerics_are_refused_by_name(
    lone_plan: Plan, repository: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    start(lone_plan, tmp_path)
    if "model" in change:
        fields = json.loads((repository / "docs" / "tiny_moe.json").read_text())
        change = {"model": tmp_path / "config.json"}
        change["model"].write_text(json.dumps(fields | {"rms_norm_eps": 0.5, "norm_topk_prob": True}))
    with pytest.raises(InputError, match=message):
        start(lone_plan, tmp_path, 2, resume=True, **change)


def test_a_finished_run_that_is_resumed_takes_no_step(lone_plan: Plan, tmp_path: Path) -> None:
    assert start(lone_plan, tmp_path, 2) is not None
    assert start(lone_plan, tmp_path, 2, resume=True) is None
    assert len((tmp_path / "run" / "steps.jsonl").read_bytes().splitlines()) == 2


def test_no_space_is_named_and_older_checkpoints_stay(
    lone_plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(lone_plan, tmp_path)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(InputError, match=r"saved: no space left on the disk: 1,000 bytes free, .* needed"):
        start(lone_plan, tmp_path, 2, resume=True)
    latest = CheckpointFolder(path=tmp_path / "saved").latest()
    assert latest is not None
    assert latest.name == "step-000000000001"


def test_a_run_of_one_step_can_be_profiled(lone_plan: Plan, tmp_path: Path) -> None:
    summary = start(lone_plan, tmp_path, 1, profile=True)
    assert summary is not None
    assert {one.part for one in summary.operators} == {"embedding", "layers 0-3", "head"}
    assert (tmp_path / "run" / "trace.json").is_file()


def test_torchrun_starting_again_goes_on_if_it_can(
    lone_plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    first = start(lone_plan, tmp_path, 1)
    second = start(lone_plan, tmp_path, 3)
    assert first is not None
    assert second is not None
    assert (first.first_step, second.first_step, second.num_steps) == (0, 1, 2)


def test_an_export_that_would_fail_in_the_end_is_refused_at_once(tiny_plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").touch()
    assert "exists, expected a new or empty folder" in str(refuse(tiny_plan, tmp_path, export=tmp_path / "out"))
    assert "in an existing folder" in str(refuse(tiny_plan, tmp_path, export=tmp_path / "none" / "out"))


def test_a_config_of_another_model(tiny_plan: Plan, repository: Path, tmp_path: Path) -> None:
    fields = json.loads((repository / "docs" / "tiny_moe.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(fields | {"vocab_size": 512}))
    refused = refuse(tiny_plan, tmp_path, model=tmp_path)
    assert str(refused) == f"{tmp_path / 'config.json'}: not the plan's model: vocab: 512, the plan has 256"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"schema_version": 1}', "schema_version: 1; this meshwright reads version 2"),
        ('{"schema_version": 2, "model"', "not JSON"),
    ],
)
def test_a_plan_of_another_schema(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "plan.json").write_text(text)
    request = RunRequest(plan=tmp_path / "plan.json", output=tmp_path / "run", num_steps=1)
    with pytest.raises(PlanError, match=f"plan.json: {message}"):
        run(request, (), lambda _: None)


def test_the_same_command_with_resume_goes_on_from_loaded_weights(
    lone_plan: Plan, repository: Path, tmp_path: Path
) -> None:
    """The weights are those of the checkpoint, the numerics still those of the folder."""
    fields = json.loads((repository / "docs" / "tiny_moe.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(fields | {"rms_norm_eps": 0.5}))
    start(lone_plan, tmp_path, 1, model=tmp_path)
    summary = start(lone_plan, tmp_path, 2, load=tmp_path, resume=True)
    assert summary is not None
    assert (summary.first_step, summary.numerics.norm_epsilon) == (1, 0.5)


def test_a_place_that_cannot_be_written_is_refused_at_once(tiny_plan: Plan, tmp_path: Path) -> None:
    """Also for root, whom no mode of a folder keeps out: /proc takes no files."""
    refused = refuse(tiny_plan, tmp_path, export=Path("/proc/out"))
    assert str(refused).startswith("/proc/out: cannot be written: ")
    refused = refuse(tiny_plan, tmp_path, checkpoint=Path("/proc/a/b"))
    assert str(refused).startswith("/proc/a/b: cannot be written: ")
    (tmp_path / "file").touch()
    refused = refuse(tiny_plan, tmp_path, checkpoint=tmp_path / "file")
    assert str(refused) == f"{tmp_path / 'file'}: cannot be written: Not a directory"


def test_an_export_whose_place_is_gone_in_the_end_is_one_line(
    lone_plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object, **__: object) -> None:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr("tempfile.mkdtemp", gone)
    monkeypatch.setattr("meshwright.executor.train.inputs._check_writable", lambda *_: None)
    with pytest.raises(InputError) as refused:
        start(lone_plan, tmp_path, export=tmp_path / "out")
    assert str(refused.value) == f"{tmp_path / 'out'}: cannot be written: No such file or directory"
    assert json.loads((tmp_path / "run" / "run.json").read_text())["num_steps"] == 1


def test_a_new_run_removes_the_records_of_an_earlier_one_when_it_has_some(lone_plan: Plan, tmp_path: Path) -> None:
    """With no step to take, as when weights are converted, there are none."""
    start(lone_plan, tmp_path, 2, profile=True)
    out = tmp_path / "run"
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert before.keys() == {"steps.jsonl", "run.json", "trace.json"}
    shutil.rmtree(tmp_path / "saved")
    start(lone_plan, tmp_path, 0)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    shutil.rmtree(tmp_path / "saved")
    start(lone_plan, tmp_path, 1)
    assert {path.name for path in out.iterdir()} == {"steps.jsonl", "run.json"}
    assert (out / "steps.jsonl").read_bytes().count(b"\n") == 1


def test_a_resumed_run_keeps_the_records_of_the_part_before(lone_plan: Plan, tmp_path: Path) -> None:
    start(lone_plan, tmp_path, 1, profile=True)
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    start(lone_plan, tmp_path, 1, resume=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_nothing_to_train_is_said_and_no_line_is_lost(
    lone_plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lines behind the checkpoint stay, too: nothing takes their place. What is asked for in the end is done."""
    start(lone_plan, tmp_path, 2)
    steps = tmp_path / "run" / "steps.jsonl"
    steps.write_bytes(lines := steps.read_bytes() + steps.read_bytes().splitlines(keepends=True)[-1])
    capsys.readouterr()
    assert start(lone_plan, tmp_path, 1, resume=True, export=tmp_path / "out") is None
    assert capsys.readouterr().err == "meshwright: run: 2 steps are done, --steps is 1: nothing to train\n"
    assert steps.read_bytes() == lines
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_a_run_alone_that_fails_leaves_its_reason(lone_plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(LossError) as failed:
        start(lone_plan, tmp_path, 9, learning_rate=1e30)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["failed"], record["rank"], record["status"]) == (str(failed.value), 0, 1)


def test_a_refused_resume_leaves_the_summary_of_the_part_before(lone_plan: Plan, tmp_path: Path) -> None:
    start(lone_plan, tmp_path, 1)
    before = (tmp_path / "run" / "run.json").read_bytes()
    with pytest.raises(InputError, match="seed"):
        start(lone_plan, tmp_path, 3, resume=True, seed=5)
    assert (tmp_path / "run" / "run.json").read_bytes() == before


def test_a_resumed_run_that_fails_leaves_its_reason(
    lone_plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(lone_plan, tmp_path, 1)

    def fail(*_: object, **__: object) -> None:
        raise LossError("step 1: not finite")

    monkeypatch.setattr("meshwright.executor.train.trainer.Trainer.step", fail)
    with pytest.raises(LossError):
        start(lone_plan, tmp_path, 3, resume=True)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["failed"] == "step 1: not finite"


def test_a_trace_that_cannot_be_written_costs_nothing_else(
    lone_plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_: bytes, path: Path) -> None:
        raise InputError(str(path), "", "cannot be written: No space left on device")

    monkeypatch.setattr("meshwright.executor.train.run_trace.write_whole", full)
    assert start(lone_plan, tmp_path, 1, profile=True, export=tmp_path / "out") is not None
    trace = tmp_path / "run" / "trace.json"
    line = f"meshwright: run: {trace}: cannot be written: No space left on device; all else is written"
    assert line in capsys.readouterr().err.splitlines()
    assert (tmp_path / "run" / "run.json").is_file()
    assert (tmp_path / "out" / "config.json").is_file()
