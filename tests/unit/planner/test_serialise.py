from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from meshwright.costmodel.errors import InputError, PlanError
from meshwright.planner.plan import Plan
from meshwright.planner.serialise import check_writable, parse_plan, plan_json, read_plan, schema_json, write_plan

STABLE_KEYS = {
    "": "schema_version model cluster workload mesh pipeline layers prediction search alternatives",
    "mesh": "pp dp tp sp cp ep etp",
    "pipeline": "schedule virtual_stages micro_batch_size num_micro_batches stages",
    "prediction": "step_time_s tokens_per_s tokens_per_s_per_gpu tflops_per_gpu mfu step_time_interval_s basis"
    " peak_memory_bytes memory_limit_bytes breakdown_s",
    "search": "candidates pruned lower_bound_s gap solve_time_s",
}
"""What users' scripts read."""


def _edited(plan: Plan, path: tuple[str | int, ...], value: object) -> bytes:
    """The plan's file with one value replaced; `...` removes it."""
    data = json.loads(plan_json(plan))
    place: Any = data
    for step in path[:-1]:
        place = place[step]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return json.dumps(data).encode()


def _error(text: bytes) -> str:
    with pytest.raises(PlanError) as caught:
        parse_plan(text, "plan.json")
    message = str(caught.value)
    assert message.startswith("plan.json: ")
    assert "\n" not in message
    return message.removeprefix("plan.json: ")


def test_a_plan_survives_its_file(tiny_plan: Plan, tmp_path: Path) -> None:
    write_plan(tiny_plan, tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json") == tiny_plan


def test_equal_plans_give_equal_bytes(tiny_plan: Plan) -> None:
    backwards = dict(reversed(tiny_plan.prediction.breakdown_s.items()))
    prediction = msgspec.structs.replace(tiny_plan.prediction, breakdown_s=backwards)
    assert plan_json(msgspec.structs.replace(tiny_plan, prediction=prediction)) == plan_json(tiny_plan)


def test_stable_keys_are_there(tiny_plan: Plan) -> None:
    data = json.loads(plan_json(tiny_plan))
    for section, keys in STABLE_KEYS.items():
        assert set(keys.split()) <= set(data[section] if section else data)
    assert len(data["prediction"]["peak_memory_bytes"]) == data["mesh"]["pp"]


def test_the_schema_is_that_of_the_types(repository: Path) -> None:
    shipped = repository / "planner" / "plan.schema.json"
    assert shipped.read_bytes() == schema_json(), "write it anew: meshwright.planner.serialise.schema_json()"


def test_the_golden_plan_can_be_read_and_gives_its_own_bytes(
    repository: Path, check_golden: Callable[[str, str], None], tiny_plan: Plan, request: pytest.FixtureRequest
) -> None:
    if request.config.getoption("--update-golden"):
        check_golden("plan-v2.json", plan_json(tiny_plan).decode())
    plan = read_plan(repository / "tests" / "golden" / "plan-v2.json")
    assert plan.model.name == "tiny"
    check_golden("plan-v2.json", plan_json(plan).decode())


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (("mesh",), ..., "mesh: missing"),
        (("mesh", "speed"), 3, "mesh.speed: unknown field"),
        (("mesh", "pp"), -2, "mesh.pp: -2 is not a positive whole number"),
        (("mesh", "pp"), 4, "mesh: pp 4 x dp 2 x cp 1 x sp 2 x tp 1 = 16 GPUs, expected cluster.num_gpus = 8"),
        (("mesh", "ep"), 3, "mesh.ep: ep 3 x etp 1 does not divide"),
        (("pipeline", "stages", 1, "num_layers"), "two", "pipeline.stages[1].num_layers: expected int, got str"),
        (("pipeline", "stages", 1, "num_layers"), 3, "pipeline.stages[1].num_layers: 3, expected 2"),
        (("pipeline", "stages", 1, "num_layers"), ..., "pipeline.stages[1].num_layers: missing"),
        (("pipeline", "num_micro_batches"), 9, "pipeline.num_micro_batches: 9 x micro-batch 1 x dp 2 = 18 sequences"),
        (("pipeline", "schedule"), "zb-v", "pipeline.vp: zb-v needs exactly 2 virtual stages"),
        (("pipeline", "schedule"), "2f2b", "pipeline.schedule: "),
        (("layers",), [], "layers: hold 0 layers in all, the model has 4"),
        (("layers", 0, "num_layers"), 1, "layers[1].first_layer: 2, expected 1"),
        (("layers", 2, "num_layers"), 2, "layers: hold 5 layers in all, the model has 4"),
        (("layers", 1, "virtual_stage"), 7, "layers[1].virtual_stage: 7, expected 0 to 1"),
        (("layers", 1, "strategy", "sp"), 4, "layers[1].strategy: tp 1 x sp 4 x cp 1 = 4 GPUs, but the mesh"),
        (("layers", 1, "strategy", "sp"), -2, "layers[1].strategy.sp: -2 is not a positive whole number"),
        (("layers", 1, "strategy", "ep"), 8, "layers[1].strategy: ep 8, etp 1, but the mesh has ep 4"),
        (("model", "hash"), "0" * 64, "model.hash: 000000000000 is of another model"),
        (("model", "hidden"), 2048, "model.hash: "),
        (
            ("model", "layer_runs", 0, "layer", "attention", "num_heads"),
            7,
            "model.layer_runs[0].layer.attention.num_kv",
        ),
        (
            ("cluster", "num_gpus"),
            12,
            "mesh: pp 2 x dp 2 x cp 1 x sp 2 x tp 1 = 8 GPUs, expected cluster.num_gpus = 12",
        ),
        (("cluster", "network_bytes_per_s"), 0, "cluster.network_bytes_per_s: expected float > 0.0"),
        (("cluster", "profile"), "h9000", "cluster.profile: 'h9000' is not a shipped profile"),
        (("workload", "seq_len"), 0, "workload.seq_len: 0 is not a positive whole number"),
        (("prediction", "step_time_s"), -1.0, "prediction.step_time_s: expected float > 0.0"),
        (("prediction", "breakdown_s", "gemm"), 5.0, "prediction.breakdown_s: adds up to "),
        (("prediction", "memory"), [], "prediction.memory: 0 values, expected one for each of pp 2"),
        (("prediction", "step_time_interval_s"), [2.0, 1.0], "prediction.step_time_interval_s: 2.0 is above 1.0"),
        (("workload", "seq_len"), 33, "prediction.tokens_per_s: "),
        (("prediction", "tokens_per_s"), 1.0, "prediction.tokens_per_s: 1, expected "),
        (("prediction", "tokens_per_s_per_gpu"), 1.0, "prediction.tokens_per_s_per_gpu: 1, expected "),
        (("prediction", "flops_per_token"), 1.0, "prediction.tflops_per_gpu: "),
        (("prediction", "tflops_per_gpu"), 1.0, "prediction.tflops_per_gpu: 1, expected "),
        (("search", "gap"), "small", "search.gap: expected float, got str"),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else None,
)
def test_nonsense_is_named_with_its_path(
    tiny_plan: Plan, path: tuple[str | int, ...], value: object, expected: str
) -> None:
    assert _error(_edited(tiny_plan, path, value)).startswith(expected)


def test_a_plan_of_the_first_version_is_refused(repository: Path) -> None:
    with pytest.raises(PlanError, match="schema_version: 1; this meshwright reads version 2"):
        read_plan(repository / "tests" / "golden" / "plan-v1.json")


@pytest.mark.parametrize(
    ("version", "found"), [(1, "1"), (3, "3"), ("2", "'2'"), (True, "True"), (None, "None"), (..., "missing")]
)
def test_another_schema_version_is_refused_before_anything_else(tiny_plan: Plan, version: object, found: str) -> None:
    broken = _edited(tiny_plan, ("mesh",), ...)
    data = json.loads(broken)
    if version is ...:
        del data["schema_version"]
    else:
        data["schema_version"] = version
    expected = f"schema_version: {found}; this meshwright reads version 2"
    assert _error(json.dumps(data).encode()) == expected


@pytest.mark.parametrize("text", [b"", b"{", b"plan", b"\xff\xfe", b'{"schema_version": NaN}', b"[" * 100_000])
def test_what_is_not_json_is_refused(text: bytes) -> None:
    assert _error(text).startswith("not JSON: ")


def test_what_is_no_object_is_refused() -> None:
    assert _error(b"[1]") == "expected a JSON object, a plan written by `meshwright plan -o`"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="no such file"):
        read_plan(tmp_path / "plan.json")
    with pytest.raises(PlanError, match="cannot be read"):
        read_plan(tmp_path)


def _unwritable(tmp_path: Path, case: str) -> Path:
    path = tmp_path / "plan.json"
    if case == "missing directory":
        return tmp_path / "nowhere" / "plan.json"
    if case == "directory":
        return tmp_path
    if case == "below a file":
        path.write_text("a file")
        return path / "plan.json"
    if case == "read-only":
        path.write_text("keep me")
        path.chmod(0o444)
        return path
    if case == "device":
        return Path("/dev/null")
    return tmp_path / ("long" * 100)


@pytest.mark.parametrize("case", ["missing directory", "directory", "below a file", "read-only", "device", "long name"])
def test_what_cannot_be_written_is_known_beforehand(tmp_path: Path, tiny_plan: Plan, case: str) -> None:
    path = _unwritable(tmp_path, case)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match="cannot be written"):
        check_writable(path)
    with pytest.raises(InputError, match="cannot be written"):
        write_plan(tiny_plan, path)
    assert sorted(tmp_path.iterdir()) == before


def test_checking_leaves_nothing_behind(tmp_path: Path) -> None:
    check_writable(tmp_path / "plan.json")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, tiny_plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "plan.json"
    path.write_text("old")

    def no_space(*_: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", no_space)
    with pytest.raises(InputError, match="No space left on device"):
        write_plan(tiny_plan, path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_is_followed(tmp_path: Path, tiny_plan: Plan) -> None:
    (tmp_path / "link.json").symlink_to(tmp_path / "plan.json")
    write_plan(tiny_plan, tmp_path / "link.json")
    assert (tmp_path / "link.json").is_symlink()
    assert read_plan(tmp_path / "plan.json") == tiny_plan
